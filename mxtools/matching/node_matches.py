"""Which nodes of a changed graph do the work of the nodes of the graph that it was made from."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from math import prod

from mxtools.graph.index import NOWHERE, Graph
from mxtools.graph.shapes import of_tensor
from mxtools.matching.correspondence import Correspondence
from mxtools.matching.weight_matches import LEAST
from mxtools.matching.weight_users import users

SHARED = -2
"""The host of a node whose work several nodes do."""


class NodeMatches:
    """The nodes that do the work of the nodes of an earlier graph.

    Attributes: `made`, by node, the earlier values that it makes, and does not merely convert; `covered`, nodes to the
    earlier nodes that used the same weights; `host`, by earlier node, the node that does its work, NOWHERE or SHARED.
    """

    def __init__(self, found: Correspondence) -> None:
        """Take what values stand for."""
        self._found, self._graph, self._earlier = found, found.graph, found.earlier
        after, before = _origins(self._graph, found.earlier_values.keys()), _origins(self._earlier, found.values_now.keys())
        self.values_made = [self._makes(node, after, before) for node in range(len(self._graph.nodes))]
        self._maker = {self._earlier.producer[v]: node for node, values in enumerate(self.values_made) for v in values}
        self.same_weights = self._by_weights()
        self.node_now = self._nodes_now({twin: node for node, twins in self.same_weights.items() for twin in twins})

    def _makes(self, node: int, after: list[int], before: list[int]) -> list[int]:
        """Give the earlier values that a node makes.

        A node that makes what stands for the same as what it reads only converts it, unless that is known by itself. Of
        the values that one stands for, one that depends on another of them alone is a copy of it, if no weight was
        folded in on the way: then that other one is there no more, even if its name is.
        """
        of, earlier = self._found.earlier_values, self._earlier
        read = set(of.get(_origin(self._graph, node, after), ()))
        found: list[int] = []
        for value in self._graph.writes[node]:
            others = of.get(value, ())
            if value not in self._found.direct_evidence and not read.isdisjoint(others):
                continue
            twins = {other: earlier.producer[other] for other in others if earlier.producer[other] != NOWHERE}
            copies = [v for v, twin in twins.items() if _origin(earlier, twin, before) in others]
            folded = [v for v in copies if _uses_unknown(earlier, twins[v], self._found.values_now)]
            maker = self._graph.producer[self._found.same_elements[value]]
            is_folded = folded and maker != NOWHERE and _uses_unknown(self._graph, maker, of)
            found += folded if is_folded else [v for v in twins if v not in copies]
        return found

    def _nodes_now(self, covered: Mapping[int, int]) -> list[int]:
        """Give the host of each earlier node: what makes its values, or uses its weights, or hosts its readers."""
        host = [self._maker.get(node, NOWHERE) for node in range(len(self._earlier.nodes))]
        for node in range(len(host) - 1, -1, -1):
            if host[node] == NOWHERE:
                host[node] = covered.get(node, _one(host[reader] for reader in self._earlier.targets(node)))
        return host

    def _by_weights(self) -> dict[int, list[int]]:
        """Give for nodes the earlier nodes that used the weights that they use.

        Where several nodes use the same, or equal ones, those belong together that lead to the same known value.
        """
        groups: dict[tuple[int, ...], list[int]] = {}
        for value, others in self._found.earlier_values.items():
            if value in self._graph.initializers and prod(self._graph.initializers[value].dims) >= LEAST:
                groups.setdefault(tuple(sorted(others)), []).append(value)
        goal, was = self._goals(), self._nodes_now({})
        covered: dict[int, list[int]] = {}
        for key, values in groups.items():
            nodes, twins = users(self._graph, values), users(self._earlier, key)
            for node in nodes:
                found = twins if len(nodes) == 1 else [twin for twin in twins if was[twin] == goal[node] != SHARED]
                covered.setdefault(node, []).extend(found)
        return covered

    def _goals(self) -> list[int]:
        """Give for each node the one that makes known values that it leads to; SHARED where these are several."""
        goal = [node if made else NOWHERE for node, made in enumerate(self.values_made)]
        for node in range(len(goal) - 1, -1, -1):
            if goal[node] == NOWHERE:
                goal[node] = _one(goal[reader] for reader in self._graph.targets(node))
        return goal


def _origins(graph: Graph, known: Collection[int]) -> list[int]:
    """Give for each value the known one that it alone depends on by way of unknown ones, itself or NOWHERE."""
    origins = [value if value in known else NOWHERE for value in range(len(graph.names))]
    for node, writes in enumerate(graph.writes):
        origin = _origin(graph, node, origins)
        for value in writes:
            if value not in known:
                origins[value] = origin
    return origins


def _origin(graph: Graph, node: int, origins: list[int]) -> int:
    """Give the one known value that a node depends on by way of unknown ones, constants aside, else NOWHERE."""
    found = {origins[v] for v in graph.reads[node] if v not in graph.stored and v not in graph.constant}
    return found.pop() if len(found) == 1 else NOWHERE


def _uses_unknown(graph: Graph, node: int, known: Collection[int]) -> bool:
    """Tell whether a node uses a weight of which nothing is known in the other graph."""
    weights = ((v, graph.initializers.get(v)) for v in graph.reads[node] if v not in known)
    return any(w is not None and prod(w.dims) >= LEAST and of_tensor(w).kind == "f" for _, w in weights)


def _one(hosts: Iterable[int]) -> int:
    """Give the one of some hosts; SHARED where these are several, NOWHERE where there is none."""
    found = set(hosts) - {NOWHERE}
    return SHARED if len(found) > 1 else found.pop() if found else NOWHERE
