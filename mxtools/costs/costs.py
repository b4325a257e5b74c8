"""What the nodes and the values of a graph cost, for some sizes of its symbolic dimensions."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from onnx import ModelProto

from mxtools.costs.dimensions import bound
from mxtools.costs.multiply_adds import multiply_adds
from mxtools.costs.static_shapes import static_shapes
from mxtools.files.weights import WeightStore
from mxtools.graph.index import Graph
from mxtools.graph.shapes import Shapes


class Costs:
    """The multiply-adds of nodes, and the bytes of values.

    Shapes that the file does not say are inferred; those that hang on shapes which the graph computes, only when one is
    asked for that is not known otherwise.
    """

    def __init__(
        self,
        model: ModelProto,
        graph: Graph,
        weights: WeightStore,
        shapes: Shapes,
        dims: Mapping[str, int],
        other: int | None = None,
    ) -> None:
        """Take a model with its index and shapes, sizes by symbolic dimension, and the size of the others.

        Raises UsageError if the model has no dimension of a name.
        """
        self._graph, self._weights = graph, weights
        is_bound = bool(dims) or other is not None
        self._model = bound(model, dims, other) if is_bound else model
        self._shapes = Shapes(self._model, graph.names) if is_bound else shapes

    @cached_property
    def multiply_adds(self) -> dict[int, int]:
        """The multiply-adds of convolutions and matrix products by node, if their shapes can be inferred."""
        graph = self._graph
        found = multiply_adds(graph, self._shapes)
        if len(found) < sum(graph.operators[node].is_product for node in graph.main):
            found = multiply_adds(graph, self._static)
        return found

    def size(self, value: int) -> int | None:
        """Return the bytes of a value, None if they are not known."""
        shape = self._shapes[value]
        if shape is None or shape.bytes is None:
            shape = self._static[value]
        return None if shape is None else shape.bytes

    @cached_property
    def _static(self) -> Shapes:
        return static_shapes(self._model, self._graph, self._weights, self._shapes)
