"""Relative errors that still count as right, by the types that a graph computes in."""

from __future__ import annotations

import math

from onnx import ModelProto, TensorProto

from mxtools.files.weights import tensors_of
from mxtools.graph.index import Graph

EXACT, HALF, QUANTISED = 1e-3, 2e-2, 0.1
"""Relative errors that still count as right, of graphs in single precision, in half precision, in small integers."""
SAME = 1e-4
"""The relative error of a graph in single precision beside another graph: both have the same operators, or nearly."""
_HALVES = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})
_SMALL = frozenset({TensorProto.INT8, TensorProto.UINT8, TensorProto.INT4, TensorProto.UINT4})
_LEAST_WEIGHT_ELEMENTS = 64
"""Elements from which on a tensor counts as a weight: scales, masks and zero points have fewer."""


def usual_tolerance(model: ModelProto, graph: Graph, exact: float = EXACT) -> float:
    """Return the relative error that still counts as right in a graph that quantises, or has weights of some types.

    `exact` is that of one that does not.
    """
    if any(operator.quantises for operator in graph.operators):
        return QUANTISED
    types = {tensor.data_type for tensor in tensors_of(model) if math.prod(tensor.dims) >= _LEAST_WEIGHT_ELEMENTS}
    return QUANTISED if types & _SMALL else HALF if types & _HALVES else exact
