"""Which of its candidates (the calls of one module) a node belongs to.

    x ─ Neg ─── Abs ──── Relu ──── Abs ──── Relu ─ y
        pre  block.abs  block   block.abs  block             what the exporter wrote
         1       3        2         5        4               what is right, by the numbers of the calls

    calls: 0 the root, 1 `pre`, 2 `block`, 3 `block.abs`, 4 `block@1`, 5 `block@1.abs`

The candidates are (2, 4) for each Relu and (3, 5) for each Abs. The order of the nodes tells the calls of one module
apart, because it is the order of the program; if an optimiser has changed it, `program_order` restores it.

The decision goes from the root downwards. Nodes whose candidates lie below the same children of a call (here `block`
and `block@1`) are divided among these children together. Calls of one module do the same work: Abs, Relu, Abs, Relu is
one pattern twice, so each of the two calls gets one repetition.

The n-th node of a module does not always belong to its n-th call, because exporters split, merge and drop nodes. In the
next example the module `act` is called on a, on t and on b. Another module was called on t before, so the exporter
dropped the second call:

    a ─ Norm ─ Relu ─ Conv ─ Norm ─ Relu ─ y                 calls: 1 `norm1`, 2 `act`, 3 `conv`, 4 `act@1`,
        norm1  act    conv   norm2  act                             5 `norm2`, 6 `act@2`

Two Relus for three calls are no repetition. Then the other nodes tell the time. A node that can be in one call only,
and in a call that made no calls itself, is an *anchor*. The second Relu comes after the anchor of `norm2`, so `act` and
`act@1` have ended by then. Each node gets the call that can run first after the node before it; calls that were given
what the node reads come first, as far as it is known which call made that. Anchors that contradict the order of the
program (`timeline.in_order`) do not count. If the exporter numbers the calls of a module, nodes with different numbers
are in different calls.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from mxtools.evidence.calls.index import Candidates
from mxtools.evidence.calls.program_order import program_order
from mxtools.evidence.calls.timeline import Timeline, in_order
from mxtools.graph.index import NOWHERE, Graph
from mxtools.scopes.annotations import Annotations, Evidence
from mxtools.scopes.hierarchy import ROOT_CALL, Hierarchy
from mxtools.scopes.parameters import parameter_sizes

LOOK_AHEAD = 16
"""How many calls of a module are considered for a node.

Hardly ever do more calls in a row lose all their nodes, and the limit keeps the time linear.
"""

LEAST_EVEN = 10
"""Calls of one module do the same work if at most one of so many nodes cannot be divided among them evenly."""

UNNUMBERED = -1
"""The label of a node if the exporter does not say to which call of the module it belongs."""


class Item(NamedTuple):
    """A node, its candidates, and the number of what the exporter wrote; equal candidates are one object.

    `place` is where the node stands in the order of the program.
    """

    place: int
    node: int
    calls: Candidates
    label: int


Groups = Mapping[Candidates, Sequence[Item]]
"""Items by the children of a call among which they are divided."""

Narrow = Callable[[int, Candidates], Candidates]
"""Returns those of a node's candidates that recorded values allow."""


def assign(
    annotations: Annotations,
    found: Iterable[tuple[Candidates, Sequence[int]]],
    evidence: Evidence,
    origins: Mapping[int, Collection[int]] | None = None,
    narrow: Callable[[], Narrow | None] = lambda: None,
    numbered: bool = False,
) -> None:
    """Annotate each node with one of its candidates.

    `found` has pairs of candidates and the nodes that have them. `origins` has, for each call, the calls that made its
    inputs; NOWHERE stands for the inputs of the model. `narrow` returns what leaves out the candidates that recorded
    values exclude; it is called only if a node has several. If the pairs are `numbered`, nodes of different pairs with
    the same candidates are in different calls.
    """
    several: list[Item] = []
    for number, (calls, nodes) in enumerate(found):
        if len(calls) == 1:
            annotations.set_all(nodes, calls[0], evidence)
        else:
            several += [Item(node, node, calls, number if numbered else UNNUMBERED) for node in nodes]
    if several:
        if allowed := narrow():
            one: dict[Candidates, Candidates] = {}
            narrowed = (item._replace(calls=allowed(item.node, item.calls)) for item in several)
            several = [item._replace(calls=one.setdefault(item.calls, item.calls)) for item in narrowed]
        for node, call in _Placement(annotations, origins or {}).place(several).items():
            annotations.set(node, call, evidence)


class _Placement:
    """Chooses calls for nodes; `_chosen` has the results, `_anchors` the anchors by time, then by node."""

    def __init__(self, annotations: Annotations, origins: Mapping[int, Collection[int]]) -> None:
        self._graph, self._hierarchy = annotations.graph, annotations.hierarchy
        self._call_of, self._origins = annotations.call, origins
        self._timeline = Timeline(self._hierarchy)
        self._parameters = parameter_sizes(annotations, self._graph.initializers).keys()
        self._chosen: dict[int, int] = {}
        self._places: Sequence[int] = range(len(self._graph.nodes))
        self._anchors = sorted(self._as_anchors(enumerate(annotations.call)))

    def place(self, items: Sequence[Item]) -> dict[int, int]:
        """Return the call of each node."""
        alike = ((id(item.calls), item.node) for item in items)
        if order := program_order(self._graph, alike, [node for _, node in self._anchors]):
            self._places = sorted(range(len(order)), key=order.__getitem__)
            self._anchors = sorted((time, self._places[node]) for time, node in self._anchors)
        self._place(ROOT_CALL, sorted(item._replace(place=self._places[item.node]) for item in items))
        return self._chosen

    def _place(self, at: int, items: Sequence[Item]) -> None:
        """Choose a call for each node; all candidates lie within the call `at`.

        If `at` itself is a candidate, the node gets it. The other nodes are divided among the direct children of `at`,
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
            shares, rest = _repetitions(self._graph, below, group)
            self._place_shares(below[: len(shares)], shares)
            if rest:
                uneven[below] = rest
        if uneven:
            later = {item.node for group in uneven.values() for item in group}
            self._place_by_time(at, uneven, [item.node for item in items if item.node not in later])

    def _place_shares(self, children: Candidates, shares: Iterable[Sequence[Item]]) -> None:
        for child, share in zip(children, shares, strict=True):
            self._place(child, _narrowed(self._hierarchy, child, share))

    def _place_by_time(self, at: int, groups: Groups, placed: Collection[int]) -> None:
        """Divide the nodes of several groups among the children of the call `at`, by the time at which they can run."""
        items = sorted(item for group in groups.values() for item in group)
        begin, anchors = self._timeline.begun[at], self._anchors_within(at, placed)
        walk = _Walk(self._graph, self._timeline, begin, anchors, self._parameters, items)
        taken: dict[int, int] = {}
        for item in items:
            taken[item.node] = walk.call_of(item, partial(self._can_read, self._makers(item, taken)))
        for children, group in groups.items():
            shares: dict[int, list[Item]] = {child: [] for child in children}
            for item in group:
                shares[self._hierarchy.path_below(at, taken[item.node])[-1]].append(item)
            self._place_shares(children, shares.values())

    def _makers(self, item: Item, taken: Mapping[int, int]) -> set[int]:
        """Return the known calls that made what a node reads; NOWHERE stands for inputs of the model."""
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
        """Return whether a call contains one of the makers, or was given what one of them made."""
        origins, within = self._origins.get(call, ()), self._hierarchy.within
        return any(maker in origins or (maker != NOWHERE and within(maker, call)) for maker in makers)

    def _anchors_within(self, at: int, placed: Collection[int]) -> list[tuple[int, int]]:
        """Return the anchors within a call, as (place, time), in the order of the places; their times are in order too.

        `placed` has the nodes of the call that got their place before the others.
        """
        times = [self._timeline.begun[at], self._timeline.ended[at]]
        first, end = (bisect_left(self._anchors, (time, NOWHERE)) for time in times)
        found = {place: time for time, place in self._as_anchors((node, self._chosen[node]) for node in placed)}
        found.update({place: time for time, place in self._anchors[first:end]})
        return in_order(sorted(found.items()))

    def _as_anchors(self, called: Iterable[tuple[int, int | None]]) -> Iterable[tuple[int, int]]:
        """Yield (time, place) for the nodes that tell the time: not constants, and in a call that made no calls."""
        graph, timeline = self._graph, self._timeline
        for node, call in called:
            if call and timeline.is_leaf(call) and graph.owner[node] == NOWHERE and not graph.is_constant(node):
                yield timeline.begun[call], self._places[node]


class _Walk:
    """A walk along nodes and time; it must be asked for one node after the other, in order."""

    def __init__(
        self,
        graph: Graph,
        timeline: Timeline,
        begin: int,
        anchors: Sequence[tuple[int, int]],
        parameters: Collection[int],
        items: Iterable[Item],
    ) -> None:
        self._graph, self._timeline, self._now, self._parameters = graph, timeline, begin, parameters
        self._places = [place for place, _ in anchors]
        self._times = [time for _, time in anchors]
        self._ended: dict[int, list[int]] = {}
        self._labels: dict[tuple[int, int], int] = {}
        self._read: dict[int, Counter[int]] = defaultdict(Counter)
        self._readers = Counter((id(item.calls), value) for item in items for value in self._used(item.node))

    def call_of(self, item: Item, can_read: Callable[[int], bool]) -> int:
        """Return the candidate that can run first, between the node before and the next anchor.

        Candidates for which `can_read` returns True, because they can read what the node reads, come before the others.
        If all candidates have ended by then, the last one is returned.
        """
        next_ = bisect_left(self._places, item.place)
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
        """Return the calls that have not ended yet and begin before a time; if there is none, the nearest one."""
        if id(calls) not in self._ended:
            self._ended[id(calls)] = [self._timeline.ended[call] for call in calls]
        first = min(bisect_right(self._ended[id(calls)], self._now), len(calls) - 1)
        near = calls[first : first + LOOK_AHEAD]
        return (
            tuple(c for c in near if limit is None or self._timeline.begun[c] <= limit)
            or calls[max(first - 1, 0) :][:1]
        )

    def _is_free(self, item: Item, call: int) -> bool:
        """Return whether a call can have a node: no node with another number has it, nor its share of a parameter.

        Four nodes of two calls that multiply by one table are two in each call.
        """
        if item.label != UNNUMBERED:
            return self._labels.get((id(item.calls), call), item.label) == item.label
        count, read = len(item.calls), self._read[call]
        return all(read[value] * count < self._readers[id(item.calls), value] for value in self._used(item.node))

    def _used(self, node: int) -> list[int]:
        """Return the parameters that a node uses, but no axes, shapes or other settings: a call can use these twice."""
        return [value for value in self._graph.reads[node] if value in self._parameters]


def _repetitions(
    graph: Graph, children: Candidates, items: Sequence[Item]
) -> tuple[list[Sequence[Item]], Sequence[Item]]:
    """Return the nodes of each child, if they repeat themselves as often as there are children, and the other nodes.

    A single child gets all nodes, and of two each gets half of a, b, a, b. Among many nodes there may be a few others:
    a, b, c, d, x, e, a, b, c, d, e. There may be more, if they all come before the second child's share, because what
    an exporter computes once for all calls is left in the first: x, y, a, b, z, a, b, a, b. If there are too many, or
    the rest does not repeat itself, no child gets any.
    """
    count = len(children)
    if count == 1:
        return [items], ()
    if numbered := _by_labels(items, count):
        return numbered, ()
    keys = [(id(item.calls), graph.nodes[item.node].op_type) for item in items]
    found = Counter(keys)
    even = [at for at, key in enumerate(keys) if not found[key] % count]
    period = len(even) // count
    repeated = [keys[at] for at in even]
    others = len(items) - len(even)
    in_turn = repeated == repeated[:period] * count
    is_once = in_turn and 0 < others <= period * len(even) and even[period] == period + others
    if others * LEAST_EVEN > len(items) and not is_once:
        return [], items
    shares: list[Sequence[Item]]
    shares = [[items[at] for at in even[start : start + period]] for start in range(0, len(even), period)]
    if not in_turn:
        shares = _dealt(graph, [items[at] for at in even], repeated, count)
    if not shares:
        return [], items
    return shares, [item for item, key in zip(items, keys, strict=True) if found[key] % count]


def _by_labels(items: Sequence[Item], count: int) -> list[Sequence[Item]]:
    """Return the nodes of each child, if the exporter wrote as many numbers on the nodes of a module as there are."""
    labels: dict[int, dict[int, int]] = defaultdict(dict)
    shares: list[list[Item]] = [[] for _ in range(count)]
    for item in items:
        known = labels[id(item.calls)]
        child = known.setdefault(item.label, len(known))
        if item.label == UNNUMBERED or child == count:
            return []
        shares[child].append(item)
    return list(shares) if all(len(known) == count for known in labels.values()) else []


def _dealt(graph: Graph, items: Sequence[Item], keys: Sequence[Hashable], count: int) -> list[Sequence[Item]]:
    """Return the nodes of each child, where each has its share of the nodes of each key, though they are mixed up.

    The children run one after the other: there are no shares if a node would read what a later child makes.
    """
    of_key: dict[Hashable, list[Item]] = defaultdict(list)
    for item, key in zip(items, keys, strict=True):
        of_key[key].append(item)
    child = {item.node: at * count // len(same) for same in of_key.values() for at, item in enumerate(same)}
    if any(child.get(maker, 0) > at for node, at in child.items() for maker in graph.sources(node)):
        return []
    shares: list[list[Item]] = [[] for _ in range(count)]
    for item in items:
        shares[child[item.node]].append(item)
    return list(shares)


def _narrowed(hierarchy: Hierarchy, child: int, items: Sequence[Item]) -> list[Item]:
    """Return the nodes, each with only those of its candidates that lie within a call."""
    within: dict[int, Candidates] = {}
    one: dict[Candidates, Candidates] = {}
    for item in items:
        if id(item.calls) not in within:
            narrowed = tuple(c for c in item.calls if hierarchy.within(c, child))
            within[id(item.calls)] = one.setdefault(narrowed, narrowed)
    return [item._replace(calls=within[id(item.calls)]) for item in items]
