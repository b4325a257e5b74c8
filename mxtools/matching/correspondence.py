"""Which values of an earlier graph the values of a graph stand for, after a tool has changed it.

    earlier   x ─ MatMul(w1) ─m─ Add(b1) ─a─ Relu ─r─ MatMul(w2) ─n─ Add(b2) ─ y
    now       x ─ MatMul(w1) ─1─ Add(b1) ─2─ Relu ─3─ MatMul(w2) ─4─ Add(b2) ─ y

Here x, y and the weights can be recognised by themselves, from their names. The values between them were renamed.
Comparing the k-th node with the k-th fails as soon as a tool removes one. Searching for the largest common subgraph
takes too long, and says nothing if layers repeat.

So what is known is followed through the graph, in two ways. *Forwards*: nodes of the same operator that read the same
make the same. The first MatMul reads x and w1 in both graphs, so 1 is m, then 2 is a, and so on. *Backwards*: nodes of
the same operator that make the same read the same. An Add with b2 makes y in both, so 4 is n. Each step starts from
what the one before found, so nothing is searched: O(nodes + edges).

A value can stand for several earlier ones, because a tool removes nodes that do nothing: if there was an Identity
behind the Relu, 3 stands for the Identity's input and for its result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod

from mxtools.graph.index import NOWHERE, Graph
from mxtools.graph.shapes import stored_shape
from mxtools.matching.clamped_values import ClampedValues
from mxtools.matching.weight_matches import MOST_ELEMENTS_OF_CONSTANTS
from mxtools.scopes.annotations import Evidence

ValueMatches = Mapping[int, Sequence[int]]
"""Values of a graph, each with the values of the earlier graph that it stands for."""


class Correspondence:
    """Which values of an earlier graph each value of a graph stands for.

    Attributes: `graph` and `earlier`; `same_elements` and `earlier_same_elements`, for each of their values the first
    value that has the same elements in the same order; `earlier_values`, for a value the earlier values that it stands
    for, the most trusted first; `values_now`, for an earlier value the values that stand for it; `direct_evidence`, for
    each value that is known by itself the reason; `misunderstood`, for a value the earlier one that it is not, although
    something, such as its name, said so.
    """

    def __init__(
        self,
        graph: Graph,
        earlier: Graph,
        elements: Sequence[int],
        earlier_elements: Sequence[int],
        is_equal: Callable[[int, int], bool],
    ) -> None:
        """Begin with nothing known; `is_equal` says whether a constant is equal to an earlier one."""
        self.graph, self.earlier = graph, earlier
        self.earlier_values: dict[int, list[int]] = {}
        self.values_now: dict[int, list[int]] = {}
        self.direct_evidence: dict[int, Evidence] = {}
        self.misunderstood: dict[int, int] = {}
        self.same_elements, self.earlier_same_elements = elements, earlier_elements
        self._is_equal = is_equal
        self._clamped = ClampedValues(graph, earlier)
        self._open: list[int] = []

    def learn(self, found: ValueMatches, word: Evidence = Evidence.PREVIOUS, copies: bool = False) -> None:
        """Note what values stand for, with the evidence `word`, and follow it through the graph.

        A value that already stands for something stays as it is. Without `copies`, so does an earlier value that
        already has a value standing for it.
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

    def learn_quantised(self) -> None:
        """Let what comes out of a quantisation stand for what went in, unless something else is known; follow it up."""
        for value, source in self._clamped.source.items():
            if value not in self.earlier_values:
                for other in self.earlier_values.get(source, ())[:]:
                    self._meet(value, other)
        self._follow()

    def _meet(self, value: int, other: int) -> None:
        """Note that a value stands for an earlier one or, if that is a clamp's result, maybe for its input."""
        meant = self._clamped.meant(value, other)
        if meant != other:
            self.misunderstood.setdefault(value, other)
            for result in self._clamped.quantised.get(value, ()):
                self._note(result, other)
        self._note(value, meant)
        for source in self._clamped.clamped_before(value, meant):
            self._note(source, meant)

    def _note(self, value: int, other: int) -> None:
        if other not in self.earlier_values.get(value, ()):
            self.earlier_values.setdefault(value, []).append(other)
            self.values_now.setdefault(other, []).append(value)
            self._open.append(value)

    def _follow(self) -> None:
        """Go from each newly found value to the node that makes it, and to the nodes that read it.

        This is not a walk of `graph.walk`, because a value is visited again whenever it turns out to be another earlier
        value.
        """
        while self._open:
            value = self._open.pop()
            for other in self.earlier_values[value][:]:
                self._meet(self.same_elements[value], self.earlier_same_elements[other])
                if (source := self._clamped.source.get(value)) is not None and source not in self.earlier_values:
                    self._meet(source, other)
            node = self.graph.producer[value]
            if node != NOWHERE:
                self._backward(node)
            for reader in dict.fromkeys(self.graph.readers[value]):
                self._forward(reader)

    def _backward(self, node: int) -> None:
        """Match a node's inputs, and its other results, with those of the earlier node that makes the same."""
        twin = self._twin(node)
        if twin is not None:
            self._zip(self.graph.writes[node], self.earlier.writes[twin])
            if not self._has_other_numbers(node, twin):
                self._zip(*self._unknown(node, twin))

    def _twin(self, node: int) -> int | None:
        """Return the earlier node of the same operator that makes what a node makes, None if there is none."""
        makers = (
            self.earlier.producer[other] for v in self.graph.writes[node] for other in self.earlier_values.get(v, ())
        )
        return next((n for n in makers if n != NOWHERE and self.graph.has_same_operator(node, self.earlier, n)), None)

    def _has_other_numbers(self, node: int, twin: int) -> bool:
        """Return whether a node uses other integers than an earlier one, such as a Slice that a tool made into two.

        A reshape to other numbers does the same work: a tool may have computed a `-1`.
        """
        if self.graph.operators[node].keeps_elements:
            return False
        pairs = zip(self.graph.reads[node], self.earlier.reads[twin], strict=False)
        return any(self._are_other_numbers(*pair) for pair in pairs)

    def _are_other_numbers(self, value: int, other: int) -> bool:
        mine, its = self.graph.initializers.get(value), self.earlier.initializers.get(other)
        if mine is None or its is None or prod((*mine.dims, *its.dims)) > MOST_ELEMENTS_OF_CONSTANTS:
            return False
        return stored_shape(mine).kind == stored_shape(its).kind == "i" and not self._is_equal(value, other)

    def _forward(self, node: int) -> None:
        """Match a node's results with those of an earlier node of the same operator that reads the same."""
        graph, earlier = self.graph, self.earlier
        if not graph.writes[node] or graph.writes[node][0] in self.earlier_values:
            return
        live = next((v for v in graph.reads[node] if v in self.earlier_values and v not in graph.stored), NOWHERE)
        for twin in dict.fromkeys(n for other in self.earlier_values.get(live, ()) for n in earlier.readers[other]):
            if any(v in self.values_now for v in earlier.writes[twin]) or not self._reads_same(node, twin):
                continue
            if not (self._is_named_otherwise(node, twin) and self._has_changed_weights(node, twin)):
                self._zip(graph.writes[node], earlier.writes[twin])
                return

    def _is_named_otherwise(self, node: int, twin: int) -> bool:
        """Return whether a node's first result has the name of an earlier value that an earlier node does not make."""
        value, other = self.graph.writes[node][0], self.earlier.writes[twin][0]
        return self.earlier.by_name.get(self.graph.names[value], other) != other

    def _has_changed_weights(self, node: int, twin: int) -> bool:
        """Return whether a weight that a node and an earlier one read has other elements now.

        A tool that folds a BatchNorm into a convolution may leave the weights of this their names.
        """
        pairs = zip(self.graph.reads[node], self.earlier.reads[twin], strict=True)
        tensors = ((self.graph.initializers.get(v), self.earlier.initializers.get(o), v, o) for v, o in pairs)
        return any(
            mine and its and mine.data_type == its.data_type and not self._is_equal(value, other)
            for mine, its, value, other in tensors
        )

    def _reads_same(self, node: int, twin: int) -> bool:
        """Return whether two nodes have the same operator and read the same."""
        mine, its = self.graph.reads[node], self.earlier.reads[twin]
        if len(mine) != len(its) or not self.graph.has_same_operator(node, self.earlier, twin):
            return False
        pairs = zip(mine, its, strict=True)
        return all(
            b in self.earlier_values.get(a, ()) or (a not in self.earlier_values and self._is_equal(a, b))
            for a, b in pairs
        )

    def _unknown(self, node: int, twin: int) -> tuple[Sequence[int], Sequence[int]]:
        """Return the inputs of two nodes that are left without those that stand for each other.

        Return nothing if these stand at different places and several inputs are left, because the order of the others
        is unknown then.
        """
        mine, its = list(self.graph.reads[node]), list(self.earlier.reads[twin])
        if len(mine) != len(its):
            return (), ()
        moved = False  # as in Add(b, x) for Add(x, b)
        for value in self.graph.reads[node]:
            other = next((o for o in self.earlier_values.get(value, ()) if o in its), None)
            if other is not None:
                moved |= mine.index(value) != its.index(other)
                mine.remove(value)
                its.remove(other)
        return ((), ()) if moved and len(mine) > 1 else (mine, its)

    def _zip(self, mine: Sequence[int], its: Sequence[int]) -> None:
        """Match values with earlier ones, in order, except for pairs in which both have a match already."""
        if len(mine) == len(its):
            for value, other in zip(mine, its, strict=True):
                if value not in self.earlier_values or other not in self.values_now:
                    self._meet(value, other)
