"""Which of its candidates, the calls of one module, a node belongs to.

    x ─ Neg ─── Abs ──── Relu ──── Abs ──── Relu ─ y
        pre  block.abs  block   block.abs  block             what the exporter wrote
         1       3        2         5        4               what is right, by the numbers of the calls

    calls: 0 the root, 1 `pre`, 2 `block`, 3 `block.abs`, 4 `block@1`, 5 `block@1.abs`

The candidates are (2, 4) for each Relu, (3, 5) for each Abs. What tells the calls of one module apart is the order of
the nodes, which is that of the program.

It is decided from the root downwards: nodes whose candidates lie below the same children of a call (here `block` and
`block@1`) are divided among these children together. Calls of one module do the same work: Abs, Relu, Abs, Relu
repeats itself twice, so each of the two calls gets one repetition.

The n-th node of a module is not always of its n-th call: an exporter splits, merges and drops nodes. A module `act` is
called on a, on t and on b; another one was called on t before, so that the exporter dropped the second call:

    a ─ Norm ─ Relu ─ Conv ─ Norm ─ Relu ─ y                 calls: 1 `norm1`, 2 `act`, 3 `conv`, 4 `act@1`,
        norm1  act    conv   norm2  act                             5 `norm2`, 6 `act@2`

Two Relus and three calls repeat nothing. Then the other nodes tell the time. A node that can be in one call only, and
in one that made no calls, is an *anchor*. The second Relu comes after the anchor of `norm2`, so `act` and `act@1` are
over by then. Each node gets the call that can run first, from the node before it on, and that was given what the node
reads, as far as it is known which call made that. Anchors that are not in the order of the program
(`timeline.in_order`) do not count. Where the exporter numbers the calls of a module, nodes with another number are in
another call.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from mxtools.evidence.calls.index import Candidates
from mxtools.evidence.calls.timeline import Timeline, in_order
from mxtools.graph.index import NOWHERE, Graph
from mxtools.scopes.annotations import Annotations, Evidence
from mxtools.scopes.hierarchy import ROOT_CALL, Hierarchy
from mxtools.scopes.parameters import parameter_sizes

LOOK_AHEAD = 16
"""So many calls of a module are considered for a node: no more in a row lose all their nodes, and time stays linear."""

UNNUMBERED = -1
"""The label of nodes of which the exporter does not say to which call of their module they belong."""


class Item(NamedTuple):
    """A node with its candidates, and the number of what the exporter wrote; equal candidates are one object."""

    node: int
    calls: Candidates
    label: int


Groups = Mapping[Candidates, list[Item]]
"""Items by the children of a call that they are to be divided among."""


def assign(
    annotations: Annotations,
    found: Iterable[tuple[Candidates, Sequence[int]]],
    evidence: Evidence,
    origins: Mapping[int, Collection[int]] | None = None,
    numbered: bool = False,
) -> None:
    """Annotate each node with one of its candidates.

    `found` are pairs of candidates and the nodes that have these. `origins` are the calls that made what each call was
    given, NOWHERE for the inputs of the model. If pairs are `numbered`, nodes of different pairs with the same
    candidates are of different calls.
    """
    several: list[Item] = []
    for number, (calls, nodes) in enumerate(found):
        if len(calls) == 1:
            annotations.set_all(nodes, calls[0], evidence)
        else:
            several += [Item(node, calls, number if numbered else UNNUMBERED) for node in nodes]
    if several:
        for node, call in _Placement(annotations, origins or {}).place(sorted(several)).items():
            annotations.set(node, call, evidence)


class _Placement:
    """Chooses calls for nodes; `_chosen` are those that were chosen, `_anchors` the anchors by time, then by node."""

    def __init__(self, annotations: Annotations, origins: Mapping[int, Collection[int]]) -> None:
        self._graph, self._hierarchy = annotations.graph, annotations.hierarchy
        self._call_of, self._origins = annotations.call, origins
        self._timeline = Timeline(self._hierarchy)
        self._parameters = parameter_sizes(annotations, self._graph.initializers).keys()
        self._chosen: dict[int, int] = {}
        self._anchors = sorted(self._as_anchors(enumerate(annotations.call)))

    def place(self, items: Sequence[Item]) -> dict[int, int]:
        """Return the call of each node; the items are in the order of the nodes."""
        self._place(ROOT_CALL, items)
        return self._chosen

    def _place(self, at: int, items: Sequence[Item]) -> None:
        """Choose the call of each node, where all candidates lie within the call `at`.

        A node of which `at` itself is a candidate gets it. The others are divided among the direct children of `at`,
        and then placed within their child.
        """
        children: dict[int, Candidates] = {}
        groups: dict[Candidates, list[Item]] = defaultdict(list)
        for item in items:
            calls = item.calls
            if len(calls) == 1 or at in calls:
                self._chosen[item.node] = at if at in calls else calls[0]
                continue
            if id(calls) not in children:
                children[id(calls)] = tuple(sorted({self._hierarchy.path_below(at, c)[-1] for c in calls}))
            groups[children[id(calls)]].append(item)
        uneven = {}
        for below, group in groups.items():
            if shares := _repetitions(self._graph, below, group):
                self._place_shares(below, shares)
            else:
                uneven[below] = group
        if uneven:
            later = {item.node for group in uneven.values() for item in group}
            self._place_by_time(at, uneven, [item.node for item in items if item.node not in later])

    def _place_shares(self, children: Candidates, shares: Iterable[Sequence[Item]]) -> None:
        for child, share in zip(children, shares, strict=True):
            self._place(child, _narrowed(self._hierarchy, child, share))

    def _place_by_time(self, at: int, groups: Groups, placed: Collection[int]) -> None:
        """Divide the nodes of several groups among children of the call `at`, by the time at which they can run."""
        items = sorted(item for group in groups.values() for item in group)
        begin, anchors = self._timeline.begun[at], self._anchors_within(at, placed)
        walk = _Walk(self._graph, self._timeline, begin, anchors, self._parameters)
        taken: dict[int, int] = {}
        for item in items:
            taken[item.node] = walk.call_of(item, partial(self._can_read, self._makers(item, taken)))
        for children, group in groups.items():
            shares: dict[int, list[Item]] = {child: [] for child in children}
            for item in group:
                shares[self._hierarchy.path_below(at, taken[item.node])[-1]].append(item)
            self._place_shares(children, shares.values())

    def _makers(self, item: Item, taken: Mapping[int, int]) -> set[int]:
        """Return the calls that made what a node reads, as far as they are known; NOWHERE for inputs of the model."""
        graph, makers = self._graph, set[int]()
        for value in graph.reads[item.node]:
            node = graph.producer[value]
            if node == NOWHERE:
                makers.update(() if value in graph.stored else (NOWHERE,))
            elif not graph.is_constant(node):
                call = taken.get(node, self._chosen.get(node, self._call_of[node]))
                makers.update(() if call is None else (call,))
        return makers

    def _can_read(self, makers: Collection[int], call: int) -> bool:
        """Return whether a call was given what one of some calls made, or is around one of these."""
        origins, within = self._origins.get(call, ()), self._hierarchy.within
        return any(maker in origins or (maker != NOWHERE and within(maker, call)) for maker in makers)

    def _anchors_within(self, at: int, placed: Collection[int]) -> list[tuple[int, int]]:
        """Return the anchors in a call, as node and time, in the order of the nodes, which is that of time too.

        `placed` are the nodes that were placed in the call before the others.
        """
        times = [self._timeline.begun[at], self._timeline.ended[at]]
        first, end = (bisect_left(self._anchors, (time, NOWHERE)) for time in times)
        found = {node: time for time, node in self._as_anchors((node, self._chosen[node]) for node in placed)}
        found.update({node: time for time, node in self._anchors[first:end]})
        return in_order(sorted(found.items()))

    def _as_anchors(self, called: Iterable[tuple[int, int | None]]) -> Iterable[tuple[int, int]]:
        """Yield time and node of the nodes that tell the time: in a call that made no calls, and no constants."""
        graph, timeline = self._graph, self._timeline
        for node, call in called:
            if call and timeline.is_leaf(call) and graph.owner[node] == NOWHERE and not graph.is_constant(node):
                yield timeline.begun[call], node


class _Walk:
    """A walk along nodes and time: `call_of` is asked for one node after the other."""

    def __init__(
        self,
        graph: Graph,
        timeline: Timeline,
        begin: int,
        anchors: Sequence[tuple[int, int]],
        parameters: Collection[int],
    ) -> None:
        self._graph, self._timeline, self._now, self._parameters = graph, timeline, begin, parameters
        self._nodes = [node for node, _ in anchors]
        self._times = [time for _, time in anchors]
        self._ended: dict[int, list[int]] = {}
        self._labels: dict[tuple[int, int], int] = {}
        self._read: dict[int, set[int]] = defaultdict(set)

    def call_of(self, item: Item, can_read: Callable[[int], bool]) -> int:
        """Return the candidate that can run first, from the node before on, and before the next anchor is reached.

        Those of which `can_read` says that they can read what the node reads come before others. If all are over by
        then, it is the last one.
        """
        next_ = bisect_left(self._nodes, item.node)
        if next_:
            self._now = max(self._now, self._times[next_ - 1])
        near = self._near(item.calls, self._times[next_] if next_ < len(self._times) else None)
        times = {c: t for c in near if (t := self._timeline.runs_next(c, self._now)) is not None}
        free = [c for c in times if self._is_free(item, c)] or list(times)
        call = min(free, key=lambda c: (not can_read(c), times[c]), default=near[-1])
        self._now = max(self._now, times.get(call, self._now))
        if item.label != UNNUMBERED:
            self._labels[id(item.calls), call] = item.label
        self._read[call].update(self._used(item.node))
        return call

    def _near(self, calls: Candidates, limit: int | None) -> Candidates:
        """Return the calls that are not over yet and begin up to a time; where there is none, the nearest one."""
        if id(calls) not in self._ended:
            self._ended[id(calls)] = [self._timeline.ended[call] for call in calls]
        first = min(bisect_right(self._ended[id(calls)], self._now), len(calls) - 1)
        near = calls[first : first + LOOK_AHEAD]
        return (
            tuple(c for c in near if limit is None or self._timeline.begun[c] <= limit)
            or calls[max(first - 1, 0) :][:1]
        )

    def _is_free(self, item: Item, call: int) -> bool:
        """Return whether a call can have a node: no node of another number has it, and none with the same parameter."""
        if item.label != UNNUMBERED:
            return self._labels.get((id(item.calls), call), item.label) == item.label
        return self._read[call].isdisjoint(self._used(item.node))

    def _used(self, node: int) -> list[int]:
        """Return the parameters that a node uses; axes, shapes and other settings can be used twice in a call."""
        return [value for value in self._graph.reads[node] if value in self._parameters]


def _repetitions(graph: Graph, children: Candidates, items: Sequence[Item]) -> list[Sequence[Item]]:
    """Return the nodes of each child, where they repeat themselves as often as there are children: a, b, a, b for two.

    Return nothing where there is but one child, or where they do not.
    """
    if len(children) == 1:
        return [items]
    keys = [(id(item.calls), graph.nodes[item.node].op_type) for item in items]
    period, rest = divmod(len(items), len(children))
    if rest or keys != keys[:period] * len(children):
        return []
    return [items[start : start + period] for start in range(0, len(items), period)]


def _narrowed(hierarchy: Hierarchy, child: int, items: Sequence[Item]) -> list[Item]:
    """Return nodes with only those of their candidates that lie within a call."""
    within: dict[int, Candidates] = {}
    one: dict[Candidates, Candidates] = {}
    for item in items:
        if id(item.calls) not in within:
            narrowed = tuple(c for c in item.calls if hierarchy.within(c, child))
            within[id(item.calls)] = one.setdefault(narrowed, narrowed)
    return [item._replace(calls=within[id(item.calls)]) for item in items]
