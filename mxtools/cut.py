"""Cutting nodes out of a model, as a model that runs on its own.

Kept are the chosen nodes, and what they need: constants and what is computed from constants alone, and shape chains
whose tensors are at hand. All other tensors that they read are inputs; the tensors that the rest reads are outputs.
O(nodes + edges).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from functools import cached_property
from typing import Any

from onnx import GraphProto, ModelProto, ValueInfoProto

from mxtools.errors import AbsentError, InputError
from mxtools.graph import NOWHERE, Graph, bodies, graphs_in
from mxtools.runtime import runtime_infos
from mxtools.shapes import inferred_infos, is_shaped, is_typed, value_infos
from mxtools.weights import WeightStore

SHAPE_READERS = frozenset({"Shape", "Size"})


class Cut:
    """A cut through the main graph around some of its nodes.

    Attributes: `nodes`, those kept, in list order; `inputs`, `outputs`, `initializers`, values of the index.
    """

    def __init__(
        self,
        graph: Graph,
        chosen: set[int],
        foreign: Collection[int] = (),
        outputs: Collection[int] = (),
        copying: bool = True,
    ) -> None:
        """Find the boundary around the chosen nodes of the main graph.

        What `foreign` nodes compute is not copied in, and nothing at all where `copying` is false. `outputs` are the
        values to give instead of those that the rest of the graph reads.
        """
        self.graph = graph
        self.chosen = chosen
        self._main = [n for n in range(len(graph.nodes)) if graph.owner[n] == NOWHERE and graph.region[n] == 0]
        self._needs = graph.needs
        self._constant = graph.constants(foreign)
        kept = set(chosen)
        if copying:
            kept |= self._behind({v for n in chosen for v in self._needs[n]}, self._constant)
            kept |= self._shape_chains(kept)
        self.nodes = [n for n in self._main if n in kept]
        made = {v for n in self.nodes for v in graph.writes[n]}
        needed = dict.fromkeys(v for n in self.nodes for v in self._needs[n])
        self.initializers = graph.stored & needed.keys()
        whole = len(chosen) == len(self._main)
        given = (needed.keys() - made - graph.stored) | (needed.keys() & graph.inputs)
        self.inputs = self._ordered(graph.inputs, {v: None for v in needed if v in given})
        self.outputs = self._ordered(graph.outputs, dict.fromkeys(outputs)) if outputs else self._returned()
        if whole and not outputs:
            self.inputs = list(graph.inputs)
            self.outputs = list(graph.outputs)
            self.initializers |= graph.stored.intersection(graph.outputs + graph.inputs)

    def _behind(self, values: set[int], within: set[int]) -> set[int]:
        """Give the nodes that make some values, back to where the values are not `within`."""
        found: set[int] = set()
        open_ = [v for v in values if v in within]
        while open_:
            node = self.graph.producer[open_.pop()]
            if node not in found:
                found.add(node)
                open_.extend(v for v in self._needs[node] if v in within)
        return found

    @cached_property
    def _shape_derived(self) -> set[int]:
        """The values that depend on inputs only through shapes."""
        graph, found = self.graph, set[int]()
        for node in self._main:
            asks = graph.nodes[node].op_type in SHAPE_READERS
            needs = [v for v in self._needs[node] if v not in graph.stored and v not in self._constant]
            if needs and node not in graph.varying and (asks or all(v in found for v in needs)):
                found.update(graph.writes[node])
        return found

    def _shape_chains(self, kept: set[int]) -> set[int]:
        """Give the nodes of the shape chains that the kept nodes read and whose tensors are at hand."""
        graph, derived = self.graph, self._shape_derived
        made = {v for n in kept for v in graph.writes[n]}
        read = {v for n in kept for v in self._needs[n]} - made
        at_hand = made | {v for v in read if v not in derived}
        free: set[int] = set()
        for node in self._main:
            asks = graph.nodes[node].op_type in SHAPE_READERS
            if any(v in derived for v in graph.writes[node]) and all(
                v in free or v in graph.stored or v in self._constant or (v in at_hand and (asks or v in derived))
                for v in self._needs[node]
            ):
                free.update(graph.writes[node])
        chains = self._behind(read & free, free - made)
        return chains | self._behind({v for n in chains for v in self._needs[n]}, self._constant)

    def _returned(self) -> list[int]:
        """Give the outputs: what others read; constants and shapes, which others copy, only if there is no more."""
        graph = self.graph
        results = set(graph.outputs)
        readers = {
            v: [r for r in graph.readers[v] if graph.top(r) not in self.chosen]
            for n in self._main
            if n in self.chosen
            for v in graph.writes[n]
        }
        outside = {v: None for v, nodes in readers.items() if nodes or v in results}
        asked = {v for v, nodes in readers.items() if all(graph.nodes[n].op_type in SHAPE_READERS for n in nodes)}
        copied = self._constant | self._shape_derived | asked
        live = {v: None for v in outside if v in results or v not in copied}
        live = live or {v: None for v in outside if v not in self._constant} or outside
        return self._ordered(graph.outputs, live)

    @staticmethod
    def _ordered(first: Iterable[int], values: dict[int, None]) -> list[int]:
        """Put values that stand in `first` before the others."""
        head = [v for v in dict.fromkeys(first) if v in values]
        return list(dict.fromkeys([*head, *values]))


def extract(model: ModelProto, cut: Cut, weights: WeightStore) -> None:
    """Reduce a model, in place, to a cut through its main graph.

    Raises AbsentError when nothing of it is read by the rest, InputError when the type of a tensor at the boundary is
    neither in the file nor can be inferred.
    """
    if not cut.outputs:
        raise AbsentError(
            "what is selected computes nothing that the rest of the graph reads: select the module that calls it"
        )
    names = cut.graph.names
    types = _types(model, weights, [names[v] for v in (*cut.inputs, *cut.outputs)])
    inputs = [types[names[v]] for v in cut.inputs]
    outputs = [types[names[v]] for v in cut.outputs]
    _reduce(model.graph, cut, inputs, outputs)
    _reduce_functions(model)
    del model.training_info[:]


def _types(model: ModelProto, weights: WeightStore, names: list[str]) -> dict[str, ValueInfoProto]:
    """Give copies of the value infos of some tensors: from the file, else inferred by ONNX, else by ONNX Runtime.

    ONNX Runtime knows operators that ONNX does not; it is asked last because it loads the weights.
    """
    known = value_infos(model)
    if not all(is_shaped(known.get(name)) for name in names):
        known = inferred_infos(model)
    missing = [name for name in names if not is_typed(known.get(name))]
    if missing:
        known |= runtime_infos(model, weights, missing)
    for name in missing:
        if not is_typed(known.get(name)):
            raise InputError(
                f"the type of tensor {name!r} is not in the file and cannot be inferred: add it as value_info"
            )
    return {name: ValueInfoProto.FromString(known[name].SerializeToString()) for name in names}


def _reduce(graph: GraphProto, cut: Cut, inputs: list[ValueInfoProto], outputs: list[ValueInfoProto]) -> None:
    """Leave in a graph just what a cut keeps, to the byte."""
    index = cut.graph
    nodes = {id(index.nodes[n]) for n in cut.nodes}
    weights = {index.names[v] for v in cut.initializers}
    boundary = {info.name for info in (*inputs, *outputs)}
    inner = {index.names[v] for n in cut.nodes for v in index.writes[n]} | weights
    _keep(graph.quantization_annotation, lambda note: note.tensor_name in inner or note.tensor_name in boundary)
    weights.update(entry.value for note in graph.quantization_annotation for entry in note.quant_parameter_tensor_names)
    _keep(graph.node, lambda node: id(node) in nodes)
    _keep(graph.initializer, lambda tensor: tensor.name in weights)
    _keep(graph.sparse_initializer, lambda tensor: tensor.values.name in weights)
    _keep(graph.value_info, lambda info: info.name in inner and info.name not in boundary)
    for field, infos in ((graph.input, inputs), (graph.output, outputs)):
        del field[:]
        field.extend(infos)


def _keep(field: Any, wanted: Callable[[Any], bool]) -> None:  # noqa: ANN401 - protobuf's container
    """Delete from a repeated field all messages but the wanted ones, which are not touched."""
    for index in range(len(field) - 1, -1, -1):
        if not wanted(field[index]):
            del field[index]


def _reduce_functions(model: ModelProto) -> None:
    """Leave in a model just the functions that its nodes use, directly or through another."""
    functions = {(f.domain, f.name, f.overload): f for f in model.functions}
    used: set[tuple[str, str, str]] = set()
    open_ = list(model.graph.node)
    while open_:
        node = open_.pop()
        key = (node.domain, node.op_type, node.overload)
        open_.extend(inner for body in bodies(node) for inner in body.node)
        if key in functions and key not in used:
            used.add(key)
            open_.extend(functions[key].node)
            open_.extend(inner for default in graphs_in(functions[key].attribute_proto) for inner in default.node)
    _keep(model.functions, lambda f: (f.domain, f.name, f.overload) in used)
