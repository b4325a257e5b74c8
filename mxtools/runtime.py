"""Running a graph in ONNX Runtime and looking at its inner tensors."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import cast

from onnx import ModelProto, ValueInfoProto

from mxtools import wire
from mxtools.errors import InputError
from mxtools.shapes import Array
from mxtools.weights import WeightStore

BATCH_BYTES = 1 << 29
"""Bytes of tensors that are held at a time."""


def inner_values(
    model: ModelProto, weights: WeightStore, feeds: Mapping[str, Array], wanted: Mapping[str, int]
) -> Iterator[tuple[str, Array]]:
    """Give tensors of the main graph by name as a run on `feeds` computes them; `wanted` is name to bytes, estimated.

    The graph is run as often as it takes to hold only some of the tensors at a time. Raises InputError when ONNX
    Runtime cannot load or run it.
    """
    probe = ModelProto()
    probe.CopyFrom(model)
    known = {value.name for value in probe.graph.output}
    probe.graph.output.extend(ValueInfoProto(name=name) for name in wanted if name not in known)
    run = _Session(probe, weights, feeds).run
    for names in _batches(wanted):
        yield from zip(names, run(names), strict=True)


def computed(model: ModelProto, weights: WeightStore, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Give the outputs of a model by name; InputError when ONNX Runtime cannot load or run it."""
    names = [value.name for value in model.graph.output]
    return dict(zip(names, _Session(model, weights, feeds).run(names), strict=True))


class _Session:
    """A model in ONNX Runtime, not optimised, with its inputs."""

    def __init__(self, model: ModelProto, weights: WeightStore, feeds: Mapping[str, Array]) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        folder = os.fspath(weights.folder)
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
        with _one_line():
            self._session = onnxruntime.InferenceSession(
                b"".join(wire.joined(model.SerializeToString(), weights.source)), options
            )
        missing = [value.name for value in self._session.get_inputs() if value.name not in feeds]
        if missing:
            raise InputError(f"no value for the graph's input {missing[0]!r}: give --inputs with the model's inputs")
        self._feeds = {value.name: feeds[value.name] for value in self._session.get_inputs()}

    def run(self, names: Sequence[str]) -> Sequence[Array]:
        """Give some outputs."""
        with _one_line():
            return cast(Sequence[Array], self._session.run(list(names), self._feeds))


@contextmanager
def _one_line() -> Iterator[None]:
    """Turn what ONNX Runtime raises, which has no class of its own in common, into one line."""
    try:
        yield
    except Exception as error:
        raise InputError(f"ONNX Runtime cannot run the graph ({' '.join(str(error).split())[:200]})") from None


def _batches(wanted: Mapping[str, int]) -> Iterator[Sequence[str]]:
    batch: list[str] = []
    size = 0
    for name, bytes_ in wanted.items():
        if batch and size + bytes_ > BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(name)
        size += bytes_
    if batch:
        yield batch
