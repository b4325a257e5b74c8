"""Running a graph in ONNX Runtime and looking at its inner tensors."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from functools import cache
from typing import Any, TypeVar, cast

import numpy as np
from onnx import ModelProto, TensorProto, ValueInfoProto, helper

from mxtools.errors import InputError
from mxtools.files import wire
from mxtools.files.weights import WeightStore, is_adopted, tensors_of
from mxtools.graph.shapes import Array

BATCH_BYTES = 1 << 29
"""Bytes of tensors that are held at a time."""

T = TypeVar("T")


class Level(StrEnum):
    """How far ONNX Runtime optimises a graph."""

    NONE = "none"
    BASIC = "basic"
    EXTENDED = "extended"
    ALL = "all"


_TENSOR = re.compile(r"tensor\((\w+)\)")


def inner_values(
    model: ModelProto, weights: WeightStore, feeds: Mapping[str, Array], wanted: Mapping[str, int]
) -> Iterator[tuple[str, Array]]:
    """Give values of the main graph by name as a run on `feeds` computes them; `wanted` is name to bytes, estimated.

    The graph is run as often as it takes to hold only some of the tensors at a time. Raises InputError when ONNX
    Runtime cannot load or run it.
    """
    run = _Session(_giving(model, wanted), weights, feeds).run
    for names in batches(wanted):
        yield from zip(names, run(names), strict=True)


def inner_tensors(
    model: ModelProto, weights: WeightStore, feeds: Mapping[str, Array], wanted: Mapping[str, int]
) -> Iterator[tuple[str, Array]]:
    """Give the same without what is no tensor: sequences, maps, and optional values that are not there."""
    return (pair for pair in inner_values(model, weights, feeds, wanted) if isinstance(pair[1], np.ndarray))


def computed(model: ModelProto, weights: WeightStore, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Give the outputs of a model by name; InputError when ONNX Runtime cannot load or run it."""
    names = [value.name for value in model.graph.output]
    return dict(zip(names, _Session(model, weights, feeds).run(names), strict=True))


class _Session:
    """A model in ONNX Runtime, not optimised, with its inputs."""

    def __init__(self, model: ModelProto, weights: WeightStore, feeds: Mapping[str, Array]) -> None:
        self._session = session(model, weights, session_options(Level.NONE))
        missing = [value.name for value in self._session.get_inputs() if value.name not in feeds]
        if missing:
            raise InputError(f"no value for the graph's input {missing[0]!r}", "give --inputs with the model's inputs")
        self._feeds = {value.name: feeds[value.name] for value in self._session.get_inputs()}

    def run(self, names: Sequence[str]) -> Sequence[Array]:
        """Give some outputs."""
        with one_line():
            return cast(Sequence[Array], self._session.run(list(names), self._feeds))


def runtime_infos(
    model: ModelProto, weights: WeightStore, names: Iterable[str], folding: bool = False
) -> dict[str, ValueInfoProto]:
    """Give types and shapes of tensors of the main graph, those that ONNX Runtime can tell; none where it cannot load.

    With `folding` it computes what is constant, and knows the shapes that hang on that. It tells scalars and tensors of
    unknown rank alike: both have no shape here.
    """
    try:
        options = session_options(Level.BASIC if folding else Level.NONE)
        outputs = session(_giving(model, names), weights, options).get_outputs()
    except InputError:
        return {}
    found = {}
    for value in outputs:
        element = _TENSOR.fullmatch(value.type)
        if element:
            type_ = TensorProto.DataType.Value(element[1].upper())
            found[value.name] = helper.make_tensor_value_info(value.name, type_, value.shape or None)
    return {name: found[name] for name in names if name in found}


def _giving(model: ModelProto, names: Iterable[str]) -> ModelProto:
    """Give a copy of a model that has some of its tensors as outputs too."""
    probe = ModelProto()
    probe.CopyFrom(model)
    known = {value.name for value in probe.graph.output}
    probe.graph.output.extend(ValueInfoProto(name=name) for name in names if name not in known)
    return probe


@cache
def onnx_runtime() -> Any:  # noqa: ANN401 - an untyped library
    """Import ONNX Runtime and return it; its telemetry, which some builds send, is switched off before any session."""
    import onnxruntime

    if hasattr(onnxruntime, "disable_telemetry_events"):
        onnxruntime.disable_telemetry_events()
    return onnxruntime


def session_options(level: Level) -> Any:  # noqa: ANN401 - an untyped library's options
    """Give the options of a session that says nothing."""
    onnxruntime = onnx_runtime()
    levels = onnxruntime.GraphOptimizationLevel
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = {
        Level.NONE: levels.ORT_DISABLE_ALL,
        Level.BASIC: levels.ORT_ENABLE_BASIC,
        Level.EXTENDED: levels.ORT_ENABLE_EXTENDED,
        Level.ALL: levels.ORT_ENABLE_ALL,
    }[level]
    options.log_severity_level = 4
    return options


def session(
    model: ModelProto,
    weights: WeightStore,
    options: Any,  # noqa: ANN401
    providers: Sequence[str] | None = None,
) -> Any:  # noqa: ANN401 - an untyped library's session
    """Load a model into ONNX Runtime; InputError where it cannot."""
    if any(map(is_adopted, tensors_of(model))):  # ONNX Runtime looks into one folder only
        model = ModelProto.FromString(model.SerializeToString())
        for tensor in filter(is_adopted, tensors_of(model)):
            tensor.CopyFrom(weights.inline(tensor))
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.fspath(weights.folder))
    bytes_ = b"".join(wire.joined(model.SerializeToString(), weights.source))
    with one_line():
        return onnx_runtime().InferenceSession(bytes_, options, providers=providers)


@contextmanager
def one_line() -> Iterator[None]:
    """Turn what ONNX Runtime raises, which has no class of its own in common, into one line."""
    try:
        yield
    except Exception as error:
        raise InputError(f"ONNX Runtime cannot run the graph ({' '.join(str(error).split())[:200]})") from None


def batches(sizes: Mapping[T, int]) -> Iterator[Sequence[T]]:
    """Give what is listed with its bytes in pieces of as many bytes as are held at a time, or of one."""
    batch: list[T] = []
    size = 0
    for one, bytes_ in sizes.items():
        if batch and size + bytes_ > BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(one)
        size += bytes_
    if batch:
        yield batch
