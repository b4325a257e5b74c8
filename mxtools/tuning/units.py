"""Units: what gets a precision. A unit is a node that reads weights, or several nodes that share a weight.

    module             node        weight
    encoder.query      MatMul      W1             a unit
    encoder.key        MatMul      W2             a unit
    embeddings         Gather      W3   ┐         one unit of two nodes: W3 is stored once, so it can have only
    head               Gemm        W3   ┘         one precision

`Units.inside` has the units in each call, so that a whole module can be measured at once.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from mxtools.errors import UsageError
from mxtools.files.weights import bytes_of
from mxtools.graph.walk import components
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes.hierarchy import ROOT_CALL
from mxtools.scopes.selection import Selection, calls_of
from mxtools.tools.node_lists import Selected
from mxtools.tuning.quantisers import FLOAT, ORDER, Chosen, Quantiser, Step, weights_of

SMALL_SHARE = 1e-3
"""Units with less than this share of the bytes of all units stay as they are: biases, scales of normalisations."""


@dataclass(frozen=True)
class Unit:
    """Nodes that get one precision together.

    Attributes: `nodes`, their numbers in the graph; `name`, that of the first node, which stands for the unit; `call`
    and `scope` of the first node; `size`, the bytes of all stored tensors that they read, as they are now;
    `precisions`, those that all of them can have, without float32.
    """

    nodes: tuple[int, ...]
    name: str
    call: int
    scope: str
    size: int
    precisions: tuple[str, ...]


Assignment = Mapping[str, str]
"""Precisions by the names of units; units that it lacks stay as they are, in float32."""


def key_of(assignment: Assignment) -> str:
    """Return a text that is the same for equal assignments, and only for these."""
    return json.dumps(sorted(assignment.items()))


class Units:
    """The units of a tagged model, and where they are in the module tree.

    Attributes: `all`, the units in the order of their nodes; `by_name`, the same by name; `inside`, the units in each
    call, with those of the calls below it; calls without units are not in it.
    """

    def __init__(
        self,
        model: WorkingModel,
        quantisers: Sequence[Quantiser],
        selection: Selection | None = None,
        operators: Collection[str] = (),
    ) -> None:
        """Find the units among the selected nodes, by default all nodes; of `operators` only, if any are given.

        Raises InputError if no node has a scope, or if a unit's node has no name of its own; UsageError if there is no
        unit; what `calls_of` raises for a wrong selection.
        """
        model.require_tagged()
        self.model, self.quantisers = model, quantisers
        self._graph, self._annotations = model.graph, model.annotations
        calls = calls_of(model.annotations, selection) if selection else None
        self._selected = {
            node
            for node in self._graph.main
            if (calls is None or (self._annotations.call[node] or ROOT_CALL) in calls)
            and (not operators or self._graph.nodes[node].op_type in operators)
        }
        self.all = self._found()
        if not self.all:
            names = ", ".join(q.precision for q in quantisers)
            raise UsageError(f"no selected node has weights that {names} makes smaller", "select others, or see ⟨tree⟩")
        self.by_name = {unit.name: unit for unit in self.all}
        self.inside: dict[int, list[Unit]] = defaultdict(list)
        for unit in self.all:
            for call in model.annotations.hierarchy.lineage(unit.call):
                self.inside[call].append(unit)
        Selected(model.annotations, tuple(n for unit in self.all for n in unit.nodes)).names  # noqa: B018 - may raise

    def _found(self) -> list[Unit]:
        """Return the units: selected nodes that some quantiser takes, those with a common weight together."""
        graph = self._graph
        taking = {
            node: tuple(q.precision for q in self.quantisers if q.takes(graph, node))
            for node in sorted(self._selected)
            if any(graph.readers[value] or value in graph.outputs for value in graph.writes[node])
        }
        nodes = [node for node, precisions in taking.items() if precisions]
        weights = {node: weights_of(graph, node) for node in nodes}
        readers = defaultdict[int, list[int]](list)
        for node, values in weights.items():
            for value in values:
                readers[value].append(node)
        groups = components(nodes, lambda node: [n for v in weights[node] for n in readers[v]])
        found = []
        for group in sorted(sorted(group) for group in groups):
            stored = {v for node in group for v in graph.reads[node] if v in graph.initializers}
            alone = all(set(graph.readers[value]) <= set(group) for node in group for value in weights[node])
            given = {q.precision for q in self.quantisers if alone or not q.replaces}
            common = [p for p in taking[group[0]] if p in given and all(p in taking[node] for node in group)]
            found.append(self._unit(tuple(group), sum(bytes_of(graph.initializers[v]) for v in stored), common))
        least = SMALL_SHARE * sum(unit.size for unit in found)
        return [unit for unit in found if unit.size >= least and unit.precisions]

    def _unit(self, nodes: tuple[int, ...], size: int, precisions: Sequence[str]) -> Unit:
        call = self._annotations.call[nodes[0]] or ROOT_CALL
        scope, name = self._annotations.hierarchy.scopes[call], self._graph.nodes[nodes[0]].name
        return Unit(nodes, name, call, scope, size, tuple(precisions))

    def children(self, call: int) -> list[tuple[int | None, list[Unit]]]:
        """Return the parts of a call: the units of each call directly below it, and its own units one by one.

        Each part is a pair of a call and the units in it; an own unit has None for the call. Calls without units are
        left out.
        """
        hierarchy = self._annotations.hierarchy
        below = dict.fromkeys(
            hierarchy.path_below(call, unit.call)[-1] for unit in self.inside[call] if unit.call != call
        )
        own = [unit for unit in self.inside[call] if unit.call == call]
        return [*((child, self.inside[child]) for child in below), *((None, [unit]) for unit in own)]

    def steps(self, assignment: Assignment) -> list[Step]:
        """Return the steps that give units their precisions, in the order in which they must run."""
        found: list[Step] = []
        for quantiser in self.quantisers:
            nodes = {n for u in self.all if assignment.get(u.name) == quantiser.precision for n in u.nodes}
            if nodes and quantiser.follows:
                nodes |= self._following(assignment, quantiser.precision)
            if nodes:
                found += quantiser.steps(self._chosen(nodes))
        return sorted(found, key=lambda step: ORDER.index(step["kind"]))

    def _chosen(self, nodes: Collection[int]) -> Chosen:
        """Return some nodes as a quantiser takes them, with all other nodes of the main graph that have names."""
        others = tuple(n for n in self._graph.main if n not in nodes and self._graph.nodes[n].name)
        return Chosen([self._graph.nodes[n] for n in sorted(nodes)], Selected(self._annotations, others))

    def _following(self, assignment: Assignment, precision: str) -> set[int]:
        """Return the nodes outside of units that get a precision along with the units of their call.

        They are the other selected nodes of each call whose own units all have this precision. Nodes of calls without
        own units, such as the sums of residual connections, follow only if all units of the model have it: to leave
        them in float32 costs no bytes, and much of the error would come from there.
        """
        has_units = {n for unit in self.all for n in unit.nodes}
        others = {unit.call for unit in self.all if assignment.get(unit.name, FLOAT) != precision}
        own = {unit.call for unit in self.all} - others
        is_whole = not others and len(self._selected) == len(self._graph.main)
        return {
            node
            for node in self._selected - has_units
            if is_whole or (self._annotations.call[node] or ROOT_CALL) in own
        }
