"""Names that lie: a quantiser gives the name of a Relu's result to what the Relu was given.

    earlier   x ─ Conv ─c─ Relu ─r─ MaxPool ─ y
    now       x ─ Conv ─r─ QuantizeLinear ─q─ DequantizeLinear ─d─ MaxPool ─ y

The quantised numbers begin at zero, so the quantisation does the Relu's work. The quantiser therefore removes the Relu
and gives its name to the Conv's result. Whoever trusts this name takes the Conv for the Relu, cuts out a convolution
that returns numbers below zero, and puts parts back behind the wrong value.

So a name, or any other evidence that a value is the result of a Relu or a Clip, is trusted only if the node that makes
the value can have done that. A Conv cannot, nor can a node that is still the one before the Relu. Then the value is
what the Relu was given: r is c. And the result of the Relu is what comes out of the quantisation: d is r.

    now       x ─ QLinearConv ─q─ DequantizeLinear ─r─ Tanh ─ y

Here the name is right, but to dequantise limits nothing. So the QLinearConv did the work of the Relu, too: q is r.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence

from mxtools.graph.index import NOWHERE, Graph
from mxtools.graph.operators import Operator


class ClampedValues:
    """Tells the result of a clamp from its input, if a tool left the clamp's work to a quantisation.

    Attributes: `quantised`, for each value that is quantised and dequantised again, the values that come out; `source`,
    for each of these, the value that went in.
    """

    def __init__(self, graph: Graph, earlier: Graph) -> None:
        """Find the quantised values of a graph."""
        self._graph, self._earlier = graph, earlier
        self.quantised: dict[int, Sequence[int]] = {}
        self.source: dict[int, int] = {}
        for node in range(len(graph.nodes)):
            for value in self._quantised(node):
                self.source[value] = graph.reads[node][0]
                self.quantised[graph.reads[node][0]] = [*self.quantised.get(graph.reads[node][0], ()), value]

    def meant(self, value: int, other: int) -> int:
        """Return the earlier value that a value stands for, given evidence that it is `other`."""
        earlier, clamp = self._earlier, self._earlier.producer[other]
        while clamp != NOWHERE and earlier.operators[clamp].clamps and earlier.reads[clamp]:
            given = earlier.reads[clamp][0]
            if not self._is_before(value, clamp, given):
                break
            other, clamp = given, earlier.producer[given]
        return other

    def clamped_before(self, value: int, other: int) -> Iterator[int]:
        """Yield the values that are only moved and dequantised to make a value, if `other` is the result of a clamp."""
        graph, node, clamp = self._graph, self._graph.producer[value], self._earlier.producer[other]
        if clamp == NOWHERE or not self._earlier.operators[clamp].clamps:
            return
        while node != NOWHERE and value not in self.source and _only_moves(graph.operators[node]) and graph.reads[node]:
            value = graph.reads[node][0]
            node = graph.producer[value]
            yield value

    def _quantised(self, node: int) -> Iterator[int]:
        """Yield what the nodes make that dequantise a node's result; nothing if the node does not quantise."""
        graph = self._graph
        if graph.operators[node].quantises and not graph.operators[node].is_product and graph.reads[node]:
            for reader in dict.fromkeys(graph.readers[graph.writes[node][0]]):
                if graph.operators[reader].dequantises:
                    yield graph.writes[reader][0]

    def _is_before(self, value: int, clamp: int, given: int) -> bool:
        """Return whether the maker of a value cannot have done the work of an earlier clamp with the input `given`."""
        graph, earlier = self._graph, self._earlier
        node, maker = self._maker(graph, value), self._maker(earlier, given)
        if node == NOWHERE or graph.has_same_operator(node, earlier, clamp):
            return False
        operator = graph.operators[node]
        if operator.is_product and operator.is_onnx and not operator.quantises:
            return True
        is_maker = maker != NOWHERE and graph.has_same_operator(node, earlier, maker)
        sources = (graph.producer[v] for v in graph.reads[node])  # a tool may have moved the clamp up
        return is_maker and not any(n != NOWHERE and graph.operators[n].clamps for n in sources)

    def _maker(self, graph: Graph, value: int) -> int:
        """Return the node that makes a value's elements; nodes that only reshape or quantise them are skipped."""
        node = graph.producer[value]
        while node != NOWHERE and graph.operators[node].keeps_elements and graph.reads[node]:
            value = graph.reads[node][0]
            node = graph.producer[self.source.get(value, value) if graph is self._graph else value]
        return node


def through_clamps(graph: Graph, value: int, kept: Container[str] = ()) -> int:
    """Return what the clamps behind a value make of it, each the only reader of the one before; else the value itself.

    A clamp with one of the names `kept` ends the walk.
    """
    while len(readers := graph.readers[value]) == 1 and graph.operators[readers[0]].clamps:
        if graph.nodes[readers[0]].name in kept or not graph.writes[readers[0]]:
            break
        value = graph.writes[readers[0]][0]
    return value


def _only_moves(operator: Operator) -> bool:
    """Return whether the result of an operator is its first input, dequantised or in another order or shape."""
    return operator.dequantises or operator.keeps_elements or operator.is_named("Transpose")
