"""Running a graph in ONNX Runtime and looking at its inner tensors."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar

import onnx
from onnx import ModelProto, ValueInfoProto

from mxtools.errors import InputError, UsageError
from mxtools.files.limits import SESSION
from mxtools.files.temporary import Scratch
from mxtools.files.weights import WeightStore, bytes_of, is_deferred, is_external, tensors_of
from mxtools.files.writing import serialised, with_data_in
from mxtools.graph.functions import model_nodes
from mxtools.graph.index import bodies
from mxtools.graph.shapes import Array
from mxtools.runtime.session_values import Value, element_type, onnx_runtime, run_session

CPU = "CPUExecutionProvider"
LARGE, LEAST = 1 << 24, 1 << 16
"""From how many bytes of inline weights on a model's are put into a file for ONNX Runtime, and the least that are."""
BATCH_BYTES = 1 << 28
"""Bytes of tensors that are in memory at the same time."""

T = TypeVar("T")


class Level(StrEnum):
    """How far ONNX Runtime optimises a graph."""

    NONE = "none"
    BASIC = "basic"
    EXTENDED = "extended"
    ALL = "all"


Run: TypeAlias = Callable[[Sequence[str], Mapping[str, Value]], Sequence[Value]]
"""Runs a loaded model on inputs by name, and returns some outputs, in the order of their names."""


class Runtime(Protocol):
    """Anything that runs a graph."""

    @property
    def name(self) -> str:
        """Its name in messages."""

    def load(self, model: ModelProto, weights: WeightStore) -> Run:
        """Load a model; InputError if it cannot be loaded. Its `Run` raises InputError if it cannot be run."""


@dataclass(frozen=True)
class OnnxRuntime:
    """ONNX Runtime in this process, by default on the CPU without optimisations.

    `providers` are execution providers, the first one preferred; `provider_options` are those of the first; `entries`
    are entries of the session's configuration. `assigned` counts the nodes of the largest graph that was loaded, by the
    provider that runs them: ONNX Runtime silently gives nodes that the first provider does not know to the CPU.
    """

    level: Level = Level.NONE
    providers: tuple[str, ...] = ()
    provider_options: Mapping[str, str] = field(default_factory=dict)
    entries: Mapping[str, str] = field(default_factory=dict)
    assigned: Counter[str] = field(default_factory=Counter, compare=False)

    @property
    def name(self) -> str:
        """The provider and the level."""
        provider = self.providers[0].removesuffix("ExecutionProvider") if self.providers else "CPU"
        return f"ONNX Runtime ({provider}, {self.level})"

    def load(self, model: ModelProto, weights: WeightStore) -> Run:
        """Load a model into a session."""
        session = load_session(model, weights, self.options(), self.providers or None, self.provider_options)
        if self._is_watched:
            parts = session.get_provider_graph_assignment_info()
            counted = Counter(dict.fromkeys(self.providers, 0))
            for part in parts:
                counted[part.ep_name] += len(part.get_nodes())
            if counted.total() > self.assigned.total():
                self.assigned.clear()
                self.assigned.update(counted)

        def run(names: Sequence[str], feeds: Mapping[str, Value]) -> Sequence[Value]:
            with one_line_errors():
                return run_session(session, names, feeds)

        return run

    def options(self) -> Any:  # noqa: ANN401 - an untyped library's options
        """Return the options of its sessions."""
        options = session_options(self.level)
        for key, value in self.entries.items():
            options.add_session_config_entry(key, value)
        if self._is_watched:
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        return options

    @property
    def _is_watched(self) -> bool:
        """Whether unwanted nodes may run on the CPU, and ONNX Runtime can tell, as it can since 1.24."""
        can_tell = hasattr(onnx_runtime().InferenceSession, "get_provider_graph_assignment_info")
        return bool(self.providers) and self.providers[0] != CPU and can_tell


REFERENCE = OnnxRuntime()
"""Computes exactly the graph, node by node, with nothing fused."""


def inner_values(
    model: ModelProto,
    weights: WeightStore,
    feeds: Mapping[str, Value],
    wanted: Mapping[str, int],
    runtime: Runtime = REFERENCE,
) -> Iterator[tuple[str, Value]]:
    """Yield names and values of the main graph, as a run on `feeds` computes them.

    `wanted` maps names to estimated sizes in bytes. The graph is run several times if all values together would take
    too much memory. Raises InputError if the runtime cannot load or run it.
    """
    run = runtime.load(_with_outputs(model, wanted), weights)
    for names in batches(wanted):
        yield from zip(names, run(names, feeds), strict=True)


def inner_tensors(
    model: ModelProto,
    weights: WeightStore,
    feeds: Mapping[str, Value],
    wanted: Mapping[str, int],
    runtime: Runtime = REFERENCE,
) -> Iterator[tuple[str, Array]]:
    """Yield what `inner_values` yields, but only tensors: no sequences, maps or absent optional values."""
    import numpy as np

    return (pair for pair in inner_values(model, weights, feeds, wanted, runtime) if isinstance(pair[1], np.ndarray))


def run_model(
    model: ModelProto, weights: WeightStore, feeds: Mapping[str, Value], runtime: Runtime = REFERENCE
) -> dict[str, Value]:
    """Return the outputs of a model by name; InputError if the runtime cannot load or run it."""
    names = [value.name for value in model.graph.output]
    return dict(zip(names, runtime.load(model, weights)(names, feeds), strict=True))


def runtime_infos(
    model: ModelProto, weights: WeightStore, names: Iterable[str], folding: bool = False
) -> dict[str, ValueInfoProto]:
    """Return types and shapes of tensors of the main graph as ONNX Runtime infers them; none if it cannot load it.

    With `folding`, it computes constants first, and so knows shapes that depend on them. It reports scalars in the same
    way as tensors of unknown rank; here neither has a shape.
    """
    try:
        options = session_options(Level.BASIC if folding else Level.NONE)
        outputs = load_session(_with_outputs(model, names), weights, options).get_outputs()
    except InputError:
        return {}
    found = {}
    for value in outputs:
        if element := element_type(value.type):
            found[value.name] = onnx.helper.make_tensor_value_info(value.name, element, value.shape or None)
    return {name: found[name] for name in names if name in found}


def _with_outputs(model: ModelProto, names: Iterable[str]) -> ModelProto:
    """Return a copy of a model with more of its values as outputs."""
    copy = ModelProto()
    copy.CopyFrom(model)
    outputs = {value.name for value in copy.graph.output}
    copy.graph.output.extend(ValueInfoProto(name=name) for name in names if name not in outputs)
    return copy


def session_options(level: Level) -> Any:  # noqa: ANN401 - an untyped library's options
    """Return session options for an optimisation level, with ONNX Runtime's own messages off."""
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


def check_providers(names: Sequence[str]) -> None:
    """Raise UsageError if ONNX Runtime lacks a provider, since it would silently take another one."""
    known = onnx_runtime().get_available_providers()
    for name in names:
        if name not in known:
            raise UsageError(f"ONNX Runtime has no provider {name!r} here", f"there are {', '.join(known)}")


def load_session(
    model: ModelProto,
    weights: WeightStore,
    options: Any,  # noqa: ANN401
    providers: Sequence[str] | None = None,
    provider_options: Mapping[str, str] | None = None,
) -> Any:  # noqa: ANN401 - an untyped library's session
    """Load a model into ONNX Runtime and return the session; InputError if that fails.

    `provider_options` are those of the first provider. Raises UsageError if ONNX Runtime lacks a provider.
    """
    check_providers(providers or ())
    if not all(map(weights.is_found, filter(is_external, tensors_of(model)))):  # ONNX Runtime reads only one folder
        model = ModelProto.FromString(model.SerializeToString())
        for tensor in filter(is_external, tensors_of(model)):
            if not weights.is_found(tensor):
                tensor.CopyFrom(weights.inline(tensor))
    with _data_beside(model, weights) as (folder, model):
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.fspath(folder))
        return _session(model, weights, options, providers, provider_options)


@contextmanager
def _data_beside(model: ModelProto, weights: WeightStore) -> Iterator[tuple[Path, ModelProto]]:
    """Yield the folder of a model's external data, and the model; large inline weights lie there for now.

    ONNX Runtime maps external data, but copies inline data twice while it loads a model: BERT-base takes 0.4 GB instead
    of 1.3. It maps a copy in a temporary folder: if the model's own file became shorter in the meantime, the process
    would end. Mapped data stay when the folder is removed.
    """
    tensors = [*tensors_of(model)]
    inline = sum(bytes_of(tensor) for tensor in tensors if is_deferred(tensor))
    if inline < LARGE or any(map(is_external, tensors)) or os.name != "posix":
        yield weights.base or weights.folder, model
        return
    with Scratch() as folder:
        yield folder, with_data_in(model, weights, folder, LEAST)


def _session(
    model: ModelProto,
    weights: WeightStore,
    options: Any,  # noqa: ANN401
    providers: Sequence[str] | None,
    provider_options: Mapping[str, str] | None,
) -> Any:  # noqa: ANN401
    """Load a model with external data in the folder that the options name."""
    data, external = serialised(model, weights), sum(map(bytes_of, filter(is_external, tensors_of(model))))
    with one_line_errors(), SESSION.of_memory("loading the graph in ONNX Runtime", len(data) + external):
        try:
            return onnx_runtime().InferenceSession(
                data,
                options,
                providers=providers,
                provider_options=[dict(provider_options), *({} for _ in providers[1:])]
                if providers and provider_options
                else None,
                enable_fallback=0,
                disabled_optimizers=_unsafe_optimizers(model),
            )
        except Exception as error:
            if "bad_alloc" in str(error):  # ONNX Runtime reports this in exceptions of its own
                raise MemoryError from error
            raise


def _unsafe_optimizers(model: ModelProto) -> list[str]:
    """Return the optimisers of ONNX Runtime that end the process on a graph, without an error that could be caught.

    Seen in 1.32: if a body reads the result of a DequantizeLinear, moving that node takes the body's number of the
    input for a number of the node's inputs, of which there are fewer.
    """
    nodes = [*model_nodes(model)]
    is_quantised = any(node.op_type == "DequantizeLinear" for node in nodes)
    return ["QDQPropagationTransformer"] if is_quantised and any(any(bodies(node)) for node in nodes) else []


def refusal(model: ModelProto, weights: WeightStore, providers: Sequence[str] | None = None) -> str:
    """Return why ONNX Runtime does not load a model as it is, "" if it does."""
    options = session_options(Level.NONE)
    options.enable_mem_pattern = False  # nothing is run, and planning its memory takes a tenth of the time
    try:
        load_session(model, weights, options, providers)
    except InputError as error:
        return str(error)
    return ""


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Raise anything that ONNX Runtime raises as InputError with one line; its exceptions have no class in common."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"ONNX Runtime cannot run the graph ({' '.join(str(error).split())[:200]})") from None


def batches(sizes: Mapping[T, int]) -> Iterator[Sequence[T]]:
    """Yield keys, given with their sizes in bytes, in batches of at most BATCH_BYTES, or of a single key."""
    batch: list[T] = []
    total = 0
    for key, size in sizes.items():
        if batch and total + size > BATCH_BYTES:
            yield batch
            batch, total = [], 0
        batch.append(key)
        total += size
    if batch:
        yield batch
