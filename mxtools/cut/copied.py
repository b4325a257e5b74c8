"""What a cut may have copies of: constants and shape computations, except for those of other modules.

A graph knows all its constants. A cut leaves out those that other modules computed, and these are different nodes for
each cut. So a value is only looked at when somebody asks for it, back to what is known and no further. Cutting a graph
into n parts then takes time in proportion to the parts, not n times the time for the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator

from mxtools.graph.index import NOWHERE, Graph
from mxtools.graph.walk import in_order


class Copied:
    """The values of a main graph that a cut may have copies of, without the results of `foreign` nodes."""

    def __init__(self, graph: Graph, foreign: Container[int]) -> None:
        """Begin without having looked at any value."""
        self._graph, self._foreign = graph, foreign
        self._constant: dict[int, bool] = {}
        self._shape: dict[int, bool] = {}

    def is_constant(self, value: int) -> bool:
        """Return whether a value is made by nodes that depend on no input, none of them foreign."""
        if value not in self._graph.constant:
            return False
        made, known = self._made_or_given, self._constant

        def is_constant(node: int) -> bool:
            return node not in self._foreign and all(known[self._maker(v)] for v in made(node))

        return self._decided(value, known, lambda node: map(self._maker, made(node)), is_constant)

    def is_shape(self, value: int) -> bool:
        """Return whether a value of the main graph depends on inputs, or foreign constants, only through shapes."""
        graph, known = self._graph, self._shape
        if value not in graph.data_independent or self.is_constant(value):
            return False

        def varying(node: int) -> list[int]:
            return [v for v in self._made_or_given(node) if not self.is_constant(v)]

        def before(node: int) -> Iterator[int]:
            if not graph.operators[node].reads_only_shape:
                yield from (self._maker(v) for v in varying(node) if v in graph.data_independent)

        def is_shape(node: int) -> bool:
            read = varying(node)
            if not read or node in graph.varying or graph.region[node] or graph.owner[node] != NOWHERE:
                return False
            asks = graph.operators[node].reads_only_shape
            return asks or all(known.get(self._maker(v), False) for v in read)

        return self._decided(value, known, before, is_shape)

    def from_hand(self, values: Iterable[int], at_hand: Container[int]) -> set[int]:
        """Return the nodes of the shape chains that make some values from values at hand and constants alone."""
        graph, known = self._graph, dict[int, bool]()

        def before(node: int) -> Iterator[int]:
            yield from (self._maker(v) for v in graph.needs[node] if self.is_shape(v))

        def is_free(node: int) -> bool:
            asks = graph.operators[node].reads_only_shape
            return all(
                known.get(self._maker(v), False)
                or v in graph.stored
                or self.is_constant(v)
                or (v in at_hand and (asks or self.is_shape(v)))
                for v in graph.needs[node]
            )

        for value in values:
            if self.is_shape(value):
                self._decided(value, known, before, is_free)
        return {node for node, free in known.items() if free}

    def _maker(self, value: int) -> int:
        return self._graph.producer[value]

    def _made_or_given(self, node: int) -> list[int]:
        """Return what a node needs, except for stored tensors."""
        return [v for v in self._graph.needs[node] if v not in self._graph.stored]

    def _decided(
        self, value: int, known: dict[int, bool], before: Callable[[int], Iterable[int]], decide: Callable[[int], bool]
    ) -> bool:
        """Return the decision on the node that makes a value; the nodes that `before` gives are decided first."""
        node = self._maker(value)
        if node == NOWHERE:
            return False
        if node not in known:
            for other in in_order([node], lambda n: [m for m in before(n) if m != NOWHERE and m not in known]):
                known[other] = decide(other)
        return known[node]
