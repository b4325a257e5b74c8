"""Splitting a model into parts: one for each selected call, and the rest; they cover it and can be run in order.

The main graph is condensed: the nodes of a selected call are one unit, every other node is one of its own. Units have
levels, even ones for the rest and odd ones for calls. What a unit reads is of a lower level, or of its own where both
are of the rest; so no way leaves a level and comes back to it, and all the rest of a level can be one part.
O(nodes + edges), besides the cuts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise

from mxtools.cut.cut import Cut
from mxtools.cut.surroundings import given_nodes
from mxtools.errors import AbsentError, UsageError
from mxtools.graph.index import NOWHERE
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes.annotations import INDIRECT, Annotations
from mxtools.scopes.selection import Selection, nodes_of, separate_calls


@dataclass(frozen=True)
class Part:
    """A part of a model: the scope of the call that it is, None for what no selected call covers, and its cut."""

    scope: str | None
    cut: Cut


def split(
    model: WorkingModel,
    selections: Iterable[Selection],
    depth: int | None = None,
    exclude: tuple[str, ...] = (),
) -> list[Part]:
    """Give the parts of a model, each after those that it needs something of.

    The outermost calls of each selection are parts, and with `depth` the calls that many levels below the root and
    leaves above that, all without what is excluded. Raises InputError where no node has a scope, UsageError where
    nothing is selected or one selected call lies in another, AbsentError where a call is not there to be cut out, or is
    left and entered again.
    """
    annotations = model.annotations
    model.require_tagged()
    calls = separate_calls(annotations, selections, depth, exclude)
    if not calls:
        raise UsageError("nothing is selected", "give --each, --depth or --class, or exclude less")
    return _Units(annotations, {call: nodes_of(annotations, within) for call, within in calls.items()}).parts()


class _Units:
    """The condensed main graph. A unit is known by its first node.

    Attributes: `calls`, the units that are calls; `cuts`, theirs; `reads`, the values that a unit is given, so without
    constants and shapes that it has copies of.
    """

    def __init__(self, annotations: Annotations, groups: dict[int, set[int]]) -> None:
        """Condense a main graph, given the nodes of each selected call."""
        graph = self.graph = annotations.graph
        self.annotations = annotations
        self.calls = {min(nodes): call for call, nodes in groups.items()}
        self._unit = {n: n for n in graph.main}
        for nodes in groups.values():
            self._unit.update(dict.fromkeys(nodes, min(nodes)))
        self.cuts = {min(nodes): Cut(graph, nodes, given_nodes(annotations, nodes)) for nodes in groups.values()}
        grouped = {n for nodes in groups.values() for n in nodes}
        # What exporters share is found in any of its readers, what a selected call itself computed is its to give.
        self._given = {n for n in grouped if graph.reads[n] and annotations.evidence[n] not in INDIRECT}
        copied = graph.constants(self._given)
        self.reads = {n: [v for v in graph.needs[n] if v not in copied] for n in graph.main if n not in grouped}
        self.reads.update((unit, cut.inputs) for unit, cut in self.cuts.items())

    def parts(self) -> list[Part]:
        """Give the parts in order; from the last to the first, because it takes the readers to know the outputs."""
        graph, scopes = self.graph, self.annotations.hierarchy.scopes
        rest: dict[int, list[int]] = {0: []}
        ordered: list[tuple[int, int]] = []
        for unit, level in self._levels().items():
            if unit in self.calls:
                ordered.append((level, unit))
            else:
                rest.setdefault(level, []).append(unit)
        ordered += [(level, NOWHERE) for level in rest]
        needed = set(graph.outputs)
        found = []
        for level, unit in sorted(ordered, reverse=True):
            cut = self._rest(rest[level], level, needed) if unit == NOWHERE else self._call(unit, needed)
            if cut:
                found.append(Part(None if unit == NOWHERE else scopes[self.calls[unit]], cut))
                needed.update(cut.inputs)
        return found[::-1]

    def _levels(self) -> dict[int, int]:
        """Give the level of each unit; AbsentError where a call needs what is computed from its own results."""
        before = {unit: {self._source(v) for v in values} - {NOWHERE} for unit, values in self.reads.items()}
        try:
            order = list(TopologicalSorter(before).static_order())
        except CycleError as error:
            raise self._entered_again(error.args[1]) from None
        levels: dict[int, int] = {}
        for unit in order:
            highest = max((levels[u] for u in before[unit]), default=0)
            levels[unit] = (highest + 1) // 2 * 2 + (unit in self.calls)
        self._sink(order, before, levels)
        return levels

    def _sink(self, order: list[int], before: dict[int, set[int]], levels: dict[int, int]) -> None:
        """Move what only the rest reads to the first level that does, so that a shape chain is no part of its own."""
        after: dict[int, set[int]] = {unit: set() for unit in order}
        results = set(self.graph.outputs)
        for unit in reversed(order):
            readers = after[unit]
            inner = unit not in self.calls and results.isdisjoint(self.graph.writes[unit])
            if inner and readers and readers.isdisjoint(self.calls):
                levels[unit] = min(levels[reader] for reader in readers)
            for source in before[unit]:
                after[source].add(unit)

    def _source(self, value: int) -> int:
        """Give the unit that makes a value, or NOWHERE."""
        return self._unit.get(self.graph.producer[value], NOWHERE)

    def _entered_again(self, cycle: list[int]) -> AbsentError:
        """Give the error for a way through the units that begins and ends at the same one."""
        hierarchy, known = self.annotations.hierarchy, self.annotations.call
        before, unit = next((a, b) for a, b in pairwise(cycle) if b in self.calls)
        value = next(v for v in self.reads[unit] if self._source(v) == before)
        on_the_way = [self.calls.get(u, known[u]) for u in cycle]
        around = hierarchy.common(call for call in on_the_way if call is not None)
        scope, tensor = hierarchy.scopes[self.calls[unit]], self.graph.names[value]
        return AbsentError(
            f"{scope} cannot be a part of its own, it reads {tensor!r}, which is computed outside of it from what it "
            f"returns",
            f"select {hierarchy.scopes[around]}, which holds both, or --exclude {scope}",
        )

    def _call(self, unit: int, needed: set[int]) -> Cut:
        """Give the cut of a call, with what others need as its outputs, else with those that `mx filter` gives it."""
        cut = self.cuts[unit]
        made = [v for n in sorted(cut.chosen) for v in self.graph.writes[n]]
        outputs = [v for v in made if v in needed] or [v for v in cut.outputs if v in made]
        cut.outputs = Cut.ordered(self.graph.outputs, outputs)
        if not cut.outputs:
            scope = self.annotations.hierarchy.scopes[self.calls[unit]]
            raise AbsentError(f"{scope} computes nothing that the rest of the graph reads", f"--exclude {scope}")
        return cut

    def _rest(self, nodes: list[int], level: int, needed: set[int]) -> Cut | None:
        """Give the cut around what is needed of the rest of a level, None where that is nothing.

        Initializers that are outputs of the model are given by the first level.
        """
        graph, inside = self.graph, set(nodes)
        outputs = [v for n in sorted(nodes) for v in graph.writes[n] if v in needed]
        chosen: set[int] = set()
        open_ = [graph.producer[v] for v in outputs]
        while open_:
            node = open_.pop()
            if node in inside and node not in chosen:
                chosen.add(node)
                open_ += [graph.producer[v] for v in self.reads[node]]
        outputs += [v for v in graph.outputs if v in graph.stored and level == 0]
        return Cut(graph, chosen, self._given, outputs) if outputs else None
