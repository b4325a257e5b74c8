"""A run of a tagged graph as a trace: what its modules are given and return, as if PyTorch had recorded it.

Whatever compares a graph with a recorded trace can so compare it with another graph, or with the same graph in another
runtime:

    x ─ MatMul ─m─ Add ─a─ Relu ─ y      becomes the calls    one(x) returned a;  act(a) returned y
        one        one     act

What leaves a call is what it returned: values that a node outside of it reads, and outputs of the graph. Calls come in
the order of their first nodes, those inside a call right behind it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import ModelProto

from mxtools.errors import InputError
from mxtools.evidence.data_flow import resolve
from mxtools.files.temporary import Scratch
from mxtools.files.weights import WeightStore
from mxtools.graph.fingerprints import NUMERIC
from mxtools.graph.index import NOWHERE, graph_inputs
from mxtools.graph.shapes import Array
from mxtools.matching.earlier_model import left_calls_of_main
from mxtools.pipeline.working_model import WorkingModel
from mxtools.runtime.session_values import Value
from mxtools.runtime.sessions import Run, Runtime, inner_tensors
from mxtools.scopes.hierarchy import ROOT_CALL
from mxtools.scopes.tags import class_of
from mxtools.traces.values import Values, check_values_file, write_values

if TYPE_CHECKING:
    from mxtools.traces.sidecar import Call, Sidecar, TracedTensor


def traced_run(
    model: WorkingModel, runtime: Runtime, given: Mapping[str, Value], folder: Path
) -> tuple[Sidecar, Values]:
    """Run a tagged graph on inputs; return its calls as a trace, and the values that left them.

    The values lie in a folder, which has to stay as long as they are used, so that memory does not grow with their
    number. Raises InputError where no node has a scope or the runtime does not run the graph.
    """
    model = resolved(model)
    graph, left, taken = model.graph, _left(model), _taken(model)
    made = (v for values in taken.values() for v in values if graph.producer[v] != NOWHERE)
    sizes = {graph.names[v]: model.shapes.bytes_of(v) for v in sorted({*left, *made})}
    store = _Store(folder)
    for name, array in inner_tensors(model.proto, model.weights, given, sizes, runtime):
        store.add(graph.by_name[name], array)
    return _sidecar(model, left, taken, store), store.values(given, model.name)


def resolved(model: WorkingModel) -> WorkingModel:
    """Return a model in which each node has a call: where some have none, a copy in which they got their neighbours'.

    Raises InputError where no node has one.
    """
    model.require_tagged()
    if None in model.annotations.call:
        model = model.copy()
        resolve(model.annotations)
    return model


def record_run(model: WorkingModel, runtime: Runtime, given: Mapping[str, Value], file: Path) -> int:
    """Run a tagged graph and write what its modules return, and its inputs, to a .npz or .safetensors file, by name.

    Returns the number of tensors. Raises what `traced_run` raises, UsageError for a file of another kind, OutputError
    if it cannot be written.
    """
    check_values_file(file)
    with Scratch() as folder:
        sidecar, values = traced_run(model, runtime, given, folder)
        names = {str(tensor.id): tensor.name for call in sidecar.calls for tensor in call.outputs}
        arrays = {names[key]: values.get(key) for key in values.names if key in names}
        arrays |= {name: value for name, value in given.items() if isinstance(value, np.ndarray)}
        write_values(file, arrays)
    return len(arrays)


@dataclass(frozen=True)
class Recorded:
    """A run of a whole model that was recorded (`mx run-values`), perhaps on another machine; it runs no parts."""

    values: Values

    @property
    def name(self) -> str:
        """The file."""
        return self.values.where

    def load(self, model: ModelProto, weights: WeightStore) -> Run:  # noqa: ARG002 - as all runtimes
        """Return what gives the recorded values, None for each tensor of which there is none."""

        def run(names: Sequence[str], feeds: Mapping[str, Value]) -> Sequence[Value]:  # noqa: ARG001
            if not any(name in self.values.names for name in names):
                raise InputError(f"{self.name} has no value of this model", "record them with this model")
            return [self.values.get(name) for name in names]

        return run


class _Store:
    """Arrays by the number of their value, in files; attribute `kinds`: the type and the shape of each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.kinds: dict[int, tuple[np.dtype[Any], tuple[int, ...]]] = {}

    def add(self, value: int, array: Array) -> None:
        """Keep an array of numbers; others are nothing to compare by."""
        if array.dtype.kind in NUMERIC:
            np.save(self._folder / f"{value}.npy", array, allow_pickle=False)
            self.kinds[value] = array.dtype, array.shape

    def values(self, given: Mapping[str, Value], where: str) -> Values:
        """Return the arrays by their numbers as texts, and the inputs by their names."""
        numbers = set(map(str, self.kinds))

        def read(name: str) -> Value:
            return np.load(self._folder / f"{name}.npy", mmap_mode="r") if name in numbers else given[name]

        return Values(numbers | given.keys(), read, f"the values of {where}")


def _left(model: WorkingModel) -> dict[int, list[int]]:
    """Return for each value of the main graph that leaves calls these calls; outputs leave the root too."""
    graph = model.graph
    found = left_calls_of_main(graph, model.annotations)
    for value in graph.outputs:
        if graph.producer[value] != NOWHERE:
            found[value] = [*found.get(value, ()), ROOT_CALL]
    return dict(sorted(found.items()))


def _taken(model: WorkingModel) -> dict[int, dict[int, None]]:
    """Return for each call the values that its nodes, or those of calls in it, read from outside."""
    found = defaultdict[int, dict[int, None]](dict)
    graph, hierarchy, calls = model.graph, model.annotations.hierarchy, model.annotations.call
    for node in graph.main:
        for value in graph.needs[node]:
            source = calls[graph.producer[value]] if graph.producer[value] != NOWHERE else ROOT_CALL
            reader = calls[node] or ROOT_CALL
            common = hierarchy.meet(source or ROOT_CALL, reader)
            for call in hierarchy.path_below(common, reader):
                found[call][value] = None
    return found


def _order(model: WorkingModel) -> list[int]:
    """Return the calls that have nodes, and those around them, in the order in which their nodes begin.

    Constants say nothing, since exporters put them anywhere; so what has only constants comes last.
    """
    hierarchy, graph = model.annotations.hierarchy, model.graph
    begins: dict[int, int] = {ROOT_CALL: -1}
    for place, node in enumerate(sorted(graph.main, key=graph.is_constant)):
        for call in hierarchy.lineage(model.annotations.call[node] or ROOT_CALL):
            if call in begins:
                break
            begins[call] = place
    inside = defaultdict[int, list[int]](list)
    for call in sorted(begins, key=lambda c: (begins[c], hierarchy.depth[c])):
        if call != ROOT_CALL:
            inside[hierarchy.parent[call]].append(call)
    order, left = [], [ROOT_CALL]
    while left:
        order.append(left.pop())
        left.extend(reversed(inside[order[-1]]))
    return order


def _sidecar(
    model: WorkingModel, left: Mapping[int, list[int]], taken: Mapping[int, dict[int, None]], store: _Store
) -> Sidecar:
    """Return the trace of a run."""
    from mxtools.traces.sidecar import Sidecar, TracedModel, TracedModule, TracedTensor

    hierarchy, graph = model.annotations.hierarchy, model.graph
    inputs = [graph.by_name[info.name] for info in graph_inputs(model.proto)]
    # the values of inputs go by their names, and their shapes matter to nobody
    tensors = {v: TracedTensor(name=graph.names[v], id=v, shape=(), dtype="float32") for v in inputs}
    for value, (dtype, shape) in store.kinds.items():
        tensors[value] = TracedTensor(name=graph.names[value], id=value, shape=shape, dtype=dtype.name)
    outputs = defaultdict[int, list[int]](list)
    for value, returning in left.items():
        for call in returning:
            outputs[call].append(value)
    order = _order(model)
    calls = _calls(model, order, {**taken, ROOT_CALL: dict.fromkeys(inputs)}, outputs, tensors)
    classes = [class_of(hierarchy.tags[call].rpartition("/")[2]) for call in order]
    modules = [
        TracedModule(path=hierarchy.scopes[call], class_name=name, qualified_class=name)
        for call, name in zip(order, classes, strict=True)
    ]
    own = tuple(tensors[value] for value in inputs)
    about = TracedModel(class_name=classes[0], qualified_class=classes[0], spec=model.name, inputs=own)
    return Sidecar(producer={}, model=about, modules=tuple(modules), calls=calls)


def _calls(
    model: WorkingModel,
    order: list[int],
    given: Mapping[int, Mapping[int, None]],
    outputs: Mapping[int, list[int]],
    tensors: Mapping[int, TracedTensor],
) -> tuple[Call, ...]:
    from mxtools.traces.sidecar import Call

    hierarchy, number = model.annotations.hierarchy, {call: place for place, call in enumerate(order)}
    return tuple(
        Call(
            scope=hierarchy.scopes[call],
            tag=hierarchy.tags[call],
            module=hierarchy.scopes[call],
            parent=None if call == ROOT_CALL else number[hierarchy.parent[call]],
            inputs=tuple(tensors[v] for v in given.get(call, ()) if v in tensors),
            outputs=tuple(tensors[v] for v in outputs.get(call, ()) if v in tensors),
        )
        for call in order
    )
