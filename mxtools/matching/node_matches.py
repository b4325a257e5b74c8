"""Which nodes of a changed graph do the work of which nodes of the graph before the change.

    earlier   x ─ MatMul(w1) ─m─ Add(b1) ─a─ Relu ─r─ MatMul(w2) ─n─ Add(b2) ─ y
    now       x ──────── FusedGemm(w1, b1) ───────r── MatMul(w2) ─n─ Add(b2) ─ y

    node_now: MatMul, Add, Relu → FusedGemm; MatMul → MatMul; Add → Add

The obvious way, node by node of the same operator, fails: there is no Relu any more, and which MatMul is which? It is
known, however, which *values* are which (r, n, y). The node that makes r does the work of the earlier node that made r,
the Relu. Nothing makes m and a any more, so their work is done in the node that does the work of their readers: the
Relu read a, so the FusedGemm also does the work of the Add, and hence that of the MatMul. Weights come before readers:
a node that uses w1 does the work of the earlier node that used w1, even if the work of that node's readers went
elsewhere.

Two things look like work but are not. If a node's result stands for the same earlier value as its input, the node only
converts it, such as a Cast that a tool put in. And if a value stands for several earlier ones, some of these were mere
copies of the others, which nothing computes any more.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from math import prod

from mxtools.graph.index import NOWHERE, Graph
from mxtools.graph.shapes import stored_shape
from mxtools.matching.correspondence import Correspondence
from mxtools.matching.weight_matches import LEAST_ELEMENTS
from mxtools.matching.weight_users import users

SHARED = -2
"""Stands in the place of the node that does the work of an earlier one, if several nodes do."""


class NodeMatches:
    """Which nodes do the work of the nodes of an earlier graph.

    Attributes: `values_made`, for each node the earlier values that it makes and does not merely convert;
    `same_weights`, for a node the earlier nodes that used the same weights; `node_now`, for each earlier node the node
    that does its work, NOWHERE if none does, SHARED if several do.
    """

    def __init__(self, found: Correspondence) -> None:
        """Find the nodes, given which values stand for which."""
        self._found, self._graph, self._earlier = found, found.graph, found.earlier
        after, before = (
            _origins(self._graph, found.earlier_values.keys()),
            _origins(self._earlier, found.values_now.keys()),
        )
        self.values_made = [self._makes(node, after, before) for node in range(len(self._graph.nodes))]
        self._maker: dict[int, int] = {}
        for node, values in enumerate(self.values_made):
            for value in values:
                self._maker.setdefault(self._earlier.producer[value], node)
        self.same_weights = self._by_weights()
        self.node_now = self._nodes_now({twin: node for node, twins in self.same_weights.items() for twin in twins})

    def _makes(self, node: int, after: list[int], before: list[int]) -> list[int]:
        """Return the earlier values that a node makes.

        A node only converts its input if its result stands for the same earlier values and is not known by itself.

        If the result stands for several earlier values, one that depends on nothing but another of them is a copy of
        it. A copy does not count, unless a weight was folded in between the two. In that case the original no longer
        exists, even if its name does, and only the copy counts.
        """
        earlier_values, earlier = self._found.earlier_values, self._earlier
        read = set(earlier_values.get(_origin(self._graph, node, after), ()))
        found: list[int] = []
        for value in self._graph.writes[node]:
            others = earlier_values.get(value, ())
            if value not in self._found.direct_evidence and not read.isdisjoint(others):
                continue
            others = [other for other in others if other not in read] or others  # not what the input stands for already
            twins = {other: earlier.producer[other] for other in others if earlier.producer[other] != NOWHERE}
            copies = [v for v, twin in twins.items() if _origin(earlier, twin, before) in others]
            folded = [v for v in copies if _uses_unknown(earlier, twins[v], self._found.values_now)]
            maker = self._graph.producer[self._found.same_elements[value]]
            is_folded = folded and maker != NOWHERE and _uses_unknown(self._graph, maker, earlier_values)
            found += folded if is_folded else [v for v in twins if v not in copies]
        return found

    def _nodes_now(self, by_weights: Mapping[int, int]) -> list[int]:
        """Return for each earlier node the one that does its work.

        This node makes the values of the earlier node, or else uses its weights (`by_weights`), or else does the work
        of all nodes that read its results.
        """
        found = [self._maker.get(node, NOWHERE) for node in range(len(self._earlier.nodes))]
        for node in range(len(found) - 1, -1, -1):
            if found[node] == NOWHERE:
                found[node] = by_weights.get(node, _one(found[reader] for reader in self._earlier.targets(node)))
        return found

    def _by_weights(self) -> dict[int, list[int]]:
        """Return nodes with the earlier nodes that used the same weights.

        If several nodes use the same weights, or equal ones, those are matched that lead to the same known value.
        """
        groups: dict[tuple[int, ...], list[int]] = {}
        for value, others in self._found.earlier_values.items():
            if value in self._graph.initializers and prod(self._graph.initializers[value].dims) >= LEAST_ELEMENTS:
                groups.setdefault(tuple(sorted(others)), []).append(value)
        goal, goal_before = self._goals(), self._nodes_now({})
        found: dict[int, list[int]] = {}
        for weights, values in groups.items():
            nodes, twins = users(self._graph, values), users(self._earlier, weights)
            for node in nodes:
                same_goal = [twin for twin in twins if goal_before[twin] == goal[node] != SHARED]
                found.setdefault(node, []).extend(twins if len(nodes) == 1 else same_goal)
        return dict(sorted(found.items()))  # of several nodes, the last one ends what the earlier one did

    def _goals(self) -> list[int]:
        """Return for each node the next one behind it, or itself, that makes known values; SHARED if several do."""
        goal = [node if made else NOWHERE for node, made in enumerate(self.values_made)]
        for node in range(len(goal) - 1, -1, -1):
            if goal[node] == NOWHERE:
                goal[node] = _one(goal[reader] for reader in self._graph.targets(node))
        return goal


def _origins(graph: Graph, known: Collection[int]) -> list[int]:
    """Return for each value the one known value on which it depends through unknown ones only; a known one is its own.

    NOWHERE if there are several, or none.
    """
    origins = [value if value in known else NOWHERE for value in range(len(graph.names))]
    for node, writes in enumerate(graph.writes):
        origin = _origin(graph, node, origins)
        for value in writes:
            if value not in known:
                origins[value] = origin
    return origins


def _origin(graph: Graph, node: int, origins: list[int]) -> int:
    """Return the one known value on which a node's inputs depend, constants aside; NOWHERE if there is not just one."""
    found = {origins[v] for v in graph.live_reads(node)}
    return found.pop() if len(found) == 1 else NOWHERE


def _uses_unknown(graph: Graph, node: int, known: Collection[int]) -> bool:
    """Return whether a node uses a weight that has no counterpart in the other graph."""
    weights = (graph.initializers.get(value) for value in graph.reads[node] if value not in known)
    return any(w is not None and prod(w.dims) >= LEAST_ELEMENTS and stored_shape(w).kind == "f" for w in weights)


def _one(nodes: Iterable[int]) -> int:
    """Return the only node, SHARED if there are several, NOWHERE if there is none."""
    found = set(nodes) - {NOWHERE}
    return SHARED if len(found) > 1 else found.pop() if found else NOWHERE
