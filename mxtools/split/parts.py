"""Split a model into parts that can be run in order: one for each selected call, and few for all the rest.

Five nodes; the calls `a` (MatMul) and `b` (Gemm) are selected, the other nodes are the rest:

    x -> Cast -> c -> MatMul (a) -> m -> Relu -> r -> Gemm (b) -> g -> Add(g, c) -> y

The obvious way, one part for each selected call and one for the rest, has no order: Cast must run before `a`, Relu
between `a` and `b`, and Add after `b`, so the rest would have to run before and after each call. A part for each node
of the rest has an order, but makes hundreds of parts.

So units get levels. A unit is a selected call with all its nodes, or a single node of the rest. Units of the rest have
even levels, calls odd ones: each is on the lowest level of its kind that is above all calls it depends on, and not
below anything it reads. Here Cast is on level 0, `a` on 1, Relu on 2, `b` on 3 and Add on 4. A unit of the rest that
reads another of its own level lies in the same part; everything else is read from lower levels. So no path leaves a
level and comes back to it, and all the rest of a level can be one part. A call that needs something computed outside of
it from its own results has no level: it cannot be a part. O(nodes + edges), besides the cuts.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise

from mxtools.cut.cut import Cut
from mxtools.cut.surroundings import GivenNodes
from mxtools.errors import AbsentError, UsageError
from mxtools.graph.index import NOWHERE, Graph
from mxtools.graph.walk import reached
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes.annotations import INDIRECT, Annotations
from mxtools.scopes.selection import Selection, nodes_of_each, separate_calls


@dataclass(frozen=True)
class Part:
    """A part of a model: the scope of its call, None where it is of no single call, and its cut.

    `place` is where it is to run, if that is known.
    """

    scope: str | None
    cut: Cut
    place: str | None = None


def split(
    model: WorkingModel,
    selections: Iterable[Selection],
    depth: int | None = None,
    exclude: tuple[str, ...] = (),
) -> list[Part]:
    """Return the parts of a model, each after the parts that it reads from.

    The outermost calls of each selection are parts. With `depth` so are the calls that many levels below the root, and
    leaves above that level. What is excluded is no part. Raises InputError where no node has a scope, UsageError where
    nothing is selected or one selected call lies in another, AbsentError where a call has no nodes to cut out, or reads
    what is computed outside of it from its own results.
    """
    annotations = model.annotations
    model.require_tagged()
    calls = separate_calls(annotations, selections, depth, exclude)
    if not calls:
        raise UsageError("nothing is selected", "give ⟨each⟩, ⟨depth⟩ or ⟨class⟩, or exclude fewer scopes")
    found = nodes_of_each(annotations, calls)
    own = {call: {n for n in nodes if annotations.call[n] in calls[call]} for call, nodes in found.items()}
    return _Units(annotations, own).parts()


def parts_of(annotations: Annotations, groups: Sequence[Collection[int]], places: Sequence[str] = ()) -> list[Part]:
    """Return the parts that have the nodes of some groups, in the order of these, each with copies of constants.

    Each group reads only from those before it. A group that nothing needs is no part. `places` are those of the groups.
    """
    graph = annotations.graph
    constant = [graph.producer[value] for value in graph.outputs if value in graph.constant]
    needed = set(graph.outputs)
    found = []
    for number, nodes in reversed([*enumerate(groups)]):
        inside = {*nodes, *constant} if number == 0 else set(nodes)
        if cut := needed_cut(graph, inside, needed, graph.needs, (), is_first=number == 0):
            found.append(Part(None, cut, places[number] if places else None))
            needed.update(cut.inputs)
    return _with_passed(graph, found[::-1])


def _with_passed(graph: Graph, parts: list[Part]) -> list[Part]:
    """Return parts, of which the first has also the inputs that the model returns as they are and no part reads."""
    read = {value for part in parts for value in part.cut.inputs}
    passed = [v for v in graph.outputs if v in graph.inputs and v not in graph.stored and v not in read]
    if parts and passed:
        cut = parts[0].cut
        cut.inputs = Cut.ordered(graph.inputs, [*cut.inputs, *passed])
    return parts


def needed_cut(
    graph: Graph,
    inside: set[int],
    needed: Collection[int],
    reads: Mapping[int, Sequence[int]] | Sequence[Sequence[int]],
    foreign: Container[int],
    is_first: bool,
) -> Cut | None:
    """Return the cut around those of some nodes that are needed for some values; None where none is.

    `reads` are the values that each node has to be given. Results of `foreign` nodes are not copied in. Initializers
    that are outputs of the model are outputs of the first part.
    """
    outputs = [v for n in sorted(inside) for v in graph.writes[n] if v in needed]

    def sources(node: int) -> set[int]:
        """Return the nodes inside that make what a node reads."""
        return inside.intersection(graph.producer[v] for v in reads[node])

    chosen = set(reached((graph.producer[v] for v in outputs), sources))
    outputs += [v for v in graph.outputs if v in graph.stored and is_first]
    return Cut(graph, chosen, foreign, Cut.ordered(graph.outputs, outputs)) if outputs else None


class _Units:
    """The units of a main graph: selected calls, and single nodes of the rest. A unit's number is its first node.

    Attributes: `calls`, the call of each unit that is one; `cuts`, their cuts; `reads`, the values that each unit has
    to be given: all that it reads but constants and shapes, of which its part has copies.
    """

    def __init__(self, annotations: Annotations, groups: dict[int, set[int]]) -> None:
        """Find the units of a main graph, given the nodes of each selected call."""
        graph = self.graph = annotations.graph
        self.annotations = annotations
        self.calls = {min(nodes): call for call, nodes in groups.items()}
        self._unit = {n: n for n in graph.main}
        for nodes in groups.values():
            self._unit.update(dict.fromkeys(nodes, min(nodes)))
        self.cuts = {min(nodes): Cut(graph, nodes, GivenNodes(annotations, nodes)) for nodes in groups.values()}
        grouped = {n for nodes in groups.values() for n in nodes}
        # A constant without direct evidence may stand in any of the modules that share it, so every part copies it.
        # What a call has direct evidence for, it computed itself: others read that from its part.
        self._owned = {n for n in grouped if graph.reads[n] and annotations.evidence[n] not in INDIRECT}
        copied = graph.constants(self._owned)
        self.reads = {n: [v for v in graph.needs[n] if v not in copied] for n in graph.main if n not in grouped}
        self.reads.update((unit, cut.inputs) for unit, cut in self.cuts.items())

    def parts(self) -> list[Part]:
        """Return the parts in order.

        They are made from the last to the first, because the outputs of a part are what the parts after it read.
        """
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
            cut = self._rest(set(rest[level]), level, needed) if unit == NOWHERE else self._call(unit, needed)
            if cut:
                found.append(Part(None if unit == NOWHERE else scopes[self.calls[unit]], cut))
                needed.update(cut.inputs)
        return _with_passed(graph, found[::-1])

    def _levels(self) -> dict[int, int]:
        """Return the level of each unit; AbsentError where a call reads a value computed from its own results."""
        sources = {unit: {self._source(v) for v in values} - {NOWHERE} for unit, values in self.reads.items()}
        try:
            order = list(TopologicalSorter(sources).static_order())
        except CycleError as error:
            raise self._entered_again(error.args[1]) from None
        levels: dict[int, int] = {}
        for unit in order:
            highest = max((levels[u] for u in sources[unit]), default=0)
            levels[unit] = (highest + 1) // 2 * 2 + (unit in self.calls)
        self._sink(order, sources, levels)
        return levels

    def _sink(self, order: list[int], sources: dict[int, set[int]], levels: dict[int, int]) -> None:
        """Move units that only the rest reads up to the first level that reads them.

        Otherwise a shape chain that starts at the inputs, but is read behind a call, would be a part of its own.
        """
        targets: dict[int, set[int]] = {unit: set() for unit in order}
        results = set(self.graph.outputs)
        for unit in reversed(order):
            readers = targets[unit]
            inner = unit not in self.calls and results.isdisjoint(self.graph.writes[unit])
            if inner and readers and readers.isdisjoint(self.calls):
                levels[unit] = min(levels[reader] for reader in readers)
            for source in sources[unit]:
                targets[source].add(unit)

    def _source(self, value: int) -> int:
        """Return the unit that makes a value; NOWHERE for inputs and initializers."""
        return self._unit.get(self.graph.producer[value], NOWHERE)

    def _entered_again(self, cycle: list[int]) -> AbsentError:
        """Return the error for a cycle of units."""
        hierarchy, known = self.annotations.hierarchy, self.annotations.call
        before, unit = next((a, b) for a, b in pairwise(cycle) if b in self.calls)
        value = next(v for v in self.reads[unit] if self._source(v) == before)
        on_cycle = [self.calls.get(u, known[u]) for u in cycle]
        around = hierarchy.common(call for call in on_cycle if call is not None)
        scope, tensor = hierarchy.scopes[self.calls[unit]], self.graph.names[value]
        return AbsentError(
            f"{scope} cannot be a part of its own, it reads {tensor!r}, which is computed outside of it from what it "
            f"returns",
            f"select {hierarchy.scopes[around]}, which contains both, or ⟨exclude-scope⟩ {scope}",
        )

    def _call(self, unit: int, needed: set[int]) -> Cut:
        """Return the cut of a call; its outputs are what later parts need, else those that it has as a part alone."""
        cut = self.cuts[unit]
        made = [v for n in sorted(cut.chosen) for v in self.graph.writes[n]]
        outputs = [v for v in made if v in needed] or [v for v in cut.outputs if v in made]
        cut.outputs = Cut.ordered(self.graph.outputs, outputs)
        if not cut.outputs:
            scope = self.annotations.hierarchy.scopes[self.calls[unit]]
            raise AbsentError(f"{scope} computes nothing that the rest of the graph reads", f"⟨exclude-scope⟩ {scope}")
        return cut

    def _rest(self, nodes: set[int], level: int, needed: Collection[int]) -> Cut | None:
        """Return the cut around the needed nodes of the rest on a level; None where nothing of it is needed."""
        return needed_cut(self.graph, nodes, needed, self.reads, self._owned, is_first=level == 0)
