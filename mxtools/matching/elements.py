"""Values of a graph with the same elements in the same order: reshaped, or transposed if that moves nothing."""

from __future__ import annotations

from onnx import NodeProto

from mxtools.graph.index import Graph
from mxtools.graph.operators import Operator
from mxtools.graph.shapes import Shapes


def same_elements(graph: Graph, shapes: Shapes) -> list[int]:
    """Return for each value the first one that has the same elements in the same order; mostly the value itself."""
    found = list(range(len(graph.names)))
    for node, proto in enumerate(graph.nodes):
        reads, writes = graph.reads[node], graph.writes[node]
        if reads and writes and _keeps_elements(graph.operators[node], proto, shapes, reads[0]):
            found[writes[0]] = found[reads[0]]
    return found


def _keeps_elements(operator: Operator, node: NodeProto, shapes: Shapes, value: int) -> bool:
    """Return whether a node's result has the elements of its first input in the same order."""
    return operator.keeps_elements or (operator.is_named("Transpose") and _moves_nothing(node, shapes, value))


def _moves_nothing(node: NodeProto, shapes: Shapes, value: int) -> bool:
    """Return whether a Transpose moves only dimensions of size 1."""
    shape = shapes[value]
    if shape is None or shape.dims is None:
        return False
    order = next((list(a.ints) for a in node.attribute if a.name == "perm"), list(range(len(shape.dims)))[::-1])
    long = [axis for axis in order if axis < len(shape.dims) and shape.dims[axis] != 1]
    return long == sorted(long)
