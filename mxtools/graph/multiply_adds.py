"""Multiply-adds of nodes, from shapes: one for each product that is added up, as papers count them."""

from __future__ import annotations

import math
from collections.abc import Callable

from onnx import NodeProto

from mxtools.graph.index import Graph
from mxtools.graph.shapes import Shapes

Dims = tuple[int, ...]
DimsOf = Callable[[str], Dims]
"""The dimensions of a value by name; LookupError where not all are known."""


def multiply_adds(graph: Graph, shapes: Shapes) -> dict[int, int]:
    """Give the multiply-adds of the convolutions and matrix products of the main graph, by node.

    Nodes whose shapes are not known, as those with symbolic dimensions, are left out.
    """
    stored = {graph.names[value]: tuple(tensor.dims) for value, tensor in graph.initializers.items()}

    def dims(name: str) -> Dims:
        if name in stored:
            return stored[name]
        known = shapes[graph.by_name[name]]
        if known is None or known.dims is None or None in known.dims:
            raise LookupError(name)
        return tuple(d for d in known.dims if d is not None)

    found = {}
    for node in graph.main:
        proto = graph.nodes[node]
        if is_product(proto):
            try:
                found[node] = COUNTS[proto.op_type](proto, dims)
            except LookupError:
                continue
    return found


def is_product(node: NodeProto) -> bool:
    """Tell whether a node is a convolution or a matrix product."""
    return node.op_type in COUNTS and node.domain in ("", "ai.onnx")


def _conv(node: NodeProto, dims: DimsOf, weight: int = 1) -> int:
    """Each element of the result adds up the products with one filter, which sees the channels of its group."""
    return math.prod(dims(node.output[0])) * math.prod(dims(node.input[weight])[1:])


def _conv_transpose(node: NodeProto, dims: DimsOf) -> int:
    """Each element of the input is multiplied by one filter."""
    return math.prod(dims(node.input[0])) * math.prod(dims(node.input[1])[1:])


def _matmul(node: NodeProto, dims: DimsOf) -> int:
    return math.prod(dims(node.output[0])) * dims(node.input[0])[-1]


def _gemm(node: NodeProto, dims: DimsOf) -> int:
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return math.prod(dims(node.output[0])) * dims(node.input[0])[0 if transposed else 1]


COUNTS: dict[str, Callable[[NodeProto, DimsOf], int]] = {
    "Conv": _conv,
    "ConvInteger": _conv,
    "QLinearConv": lambda node, dims: _conv(node, dims, weight=3),
    "ConvTranspose": _conv_transpose,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "QLinearMatMul": _matmul,
    "Gemm": _gemm,
}
