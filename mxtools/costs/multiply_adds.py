"""Multiply-adds of nodes, from shapes: each product that is added up counts once, as in papers."""

from __future__ import annotations

from mxtools.graph.index import Graph
from mxtools.graph.operators import Dims
from mxtools.graph.shapes import Shapes


def multiply_adds(graph: Graph, shapes: Shapes) -> dict[int, int]:
    """Return the multiply-adds of the convolutions and matrix products of the main graph, by node.

    Nodes whose shapes are not fully known, for instance with symbolic dimensions, are left out.
    """
    stored = {graph.names[value]: tuple(tensor.dims) for value, tensor in graph.initializers.items()}

    def dims(name: str) -> Dims:
        """Return the dimensions of a value; LookupError if not all are known."""
        if name in stored:
            return stored[name]
        known = shapes[graph.by_name[name]]
        if known is None or known.dims is None or None in known.dims:
            raise LookupError(name)
        return tuple(d for d in known.dims if d is not None)

    found = {}
    for node in graph.main:
        count = graph.operators[node].multiply_adds
        if count is not None:
            try:
                found[node] = count(graph.nodes[node], dims)
            except LookupError:
                continue
    return found
