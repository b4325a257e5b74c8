"""Which values of an earlier graph the values of a graph stand for, after a tool has changed it.

What is known by itself (names, weights, values of a run) is followed up: nodes of one operator that make the same read
the same, and those that read the same make the same. O(nodes + edges).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from onnx import NodeProto

from mxtools.graph.index import NOWHERE, Graph
from mxtools.graph.operators import operator_key
from mxtools.scopes.annotations import Evidence

ValueMatches = Mapping[int, Sequence[int]]
"""Values of a graph with the values of the earlier graph that they stand for."""


class Correspondence:
    """The values of an earlier graph that each value of a graph stands for.

    Attributes: `graph`, `earlier`; `elements` and `before`, for the values of each the first of the same elements;
    `of`, value to earlier values, the most trusted first; `back`, earlier value to values; `known`, the values that are
    known by themselves, each with the evidence.
    """

    def __init__(
        self,
        graph: Graph,
        earlier: Graph,
        elements: Sequence[int],
        before: Sequence[int],
        is_equal: Callable[[int, int], bool],
    ) -> None:
        """Begin with nothing known; `is_equal` tells whether a constant is equal to an earlier one."""
        self.graph, self.earlier = graph, earlier
        self.earlier_values: dict[int, list[int]] = {}
        self.values_now: dict[int, list[int]] = {}
        self.direct_evidence: dict[int, Evidence] = {}
        self.same_elements, self.earlier_same_elements = elements, before
        self._is_equal = is_equal
        self._open: list[int] = []

    def learn(self, found: ValueMatches, word: Evidence = Evidence.PREVIOUS, copies: bool = False) -> None:
        """Take in, with the evidence, what values stand for that stand for nothing yet, and follow it up.

        Without `copies` nothing is taken in of earlier values that others stand for already.
        """
        for value, others in found.items():
            if value in self.earlier_values:
                if word is Evidence.PREVIOUS and not set(others).isdisjoint(self.earlier_values[value]):
                    self.direct_evidence.setdefault(value, word)
                continue
            for other in others:
                if copies or other not in self.values_now:
                    self.direct_evidence[value] = word
                    self._meet(value, other)
        self._follow()

    def _meet(self, value: int, other: int) -> None:
        self.earlier_values.setdefault(value, []).append(other)
        self.values_now.setdefault(other, []).append(value)
        self._open.append(value)

    def _follow(self) -> None:
        """Follow from each value that was found to the node that makes it, and to those that read it."""
        while self._open:
            value = self._open.pop()
            for other in self.earlier_values[value][:]:
                self._zip((self.same_elements[value],), (self.earlier_same_elements[other],))
            node = self.graph.producer[value]
            if node != NOWHERE:
                self._backward(node)
            for reader in dict.fromkeys(self.graph.readers[value]):
                self._forward(reader)

    def _backward(self, node: int) -> None:
        """Let nodes that make the same, by the same operator, read the same; and make the same besides."""
        twin = self._twin(node)
        if twin is not None:
            self._zip(self.graph.writes[node], self.earlier.writes[twin])
            self._zip(*self._unknown(node, twin))

    def _twin(self, node: int) -> int | None:
        """Give the earlier node of the same operator that makes what a node makes."""
        makers = (self.earlier.producer[other] for v in self.graph.writes[node] for other in self.earlier_values.get(v, ()))
        mine, its = self.graph.nodes, self.earlier.nodes
        return next((n for n in makers if n != NOWHERE and is_same_operator(mine[node], its[n])), None)

    def _forward(self, node: int) -> None:
        """Let nodes that read the same, by the same operator, make the same."""
        graph, earlier = self.graph, self.earlier
        if not graph.writes[node] or graph.writes[node][0] in self.earlier_values:
            return
        live = next((v for v in graph.reads[node] if v in self.earlier_values and v not in graph.stored), NOWHERE)
        for twin in dict.fromkeys(n for other in self.earlier_values.get(live, ()) for n in earlier.readers[other]):
            if not any(v in self.values_now for v in earlier.writes[twin]) and self._reads_same(node, twin):
                self._zip(graph.writes[node], earlier.writes[twin])
                return

    def _reads_same(self, node: int, twin: int) -> bool:
        """Tell whether nodes of the same operator read the same."""
        mine, its = self.graph.reads[node], self.earlier.reads[twin]
        if len(mine) != len(its) or not is_same_operator(self.graph.nodes[node], self.earlier.nodes[twin]):
            return False
        pairs = zip(mine, its, strict=True)
        return all(b in self.earlier_values.get(a, ()) or (a not in self.earlier_values and self._is_equal(a, b)) for a, b in pairs)

    def _unknown(self, node: int, twin: int) -> tuple[Sequence[int], Sequence[int]]:
        """Give what is left of the inputs of two nodes when those that stand for each other are taken away.

        Nothing where these stand at different places, unless just one is left.
        """
        mine, its = list(self.graph.reads[node]), list(self.earlier.reads[twin])
        if len(mine) != len(its):
            return (), ()
        moved = False
        for value in self.graph.reads[node]:
            other = next((o for o in self.earlier_values.get(value, ()) if o in its), None)
            if other is not None:
                moved |= mine.index(value) != its.index(other)
                mine.remove(value)
                its.remove(other)
        return ((), ()) if moved and len(mine) > 1 else (mine, its)

    def _zip(self, mine: Sequence[int], its: Sequence[int]) -> None:
        """Let values stand for others, unless both stand for something else already."""
        if len(mine) == len(its):
            for value, other in zip(mine, its, strict=True):
                if value not in self.earlier_values or other not in self.values_now:
                    self._meet(value, other)


def is_same_operator(node: NodeProto, other: NodeProto) -> bool:
    """Tell whether two nodes are of one operator, with the same attributes."""
    if operator_key(node) != operator_key(other) or len(node.attribute) != len(other.attribute):
        return False
    attributes = {a.name: a.SerializeToString() for a in other.attribute}
    return all(attributes.get(a.name) == a.SerializeToString() for a in node.attribute)
