"""Shapes of a graph whose inputs have fixed shapes, followed through values that the graph computes from shapes.

ONNX's own inference follows computed shapes through a few operators only, but TorchScript's exporter also compares and
selects dimensions. So this goes in rounds: in each round, what is known becomes a constant. With an input x of shape
[2, 8]:

    s = Shape(x); n = Gather(s, 0); m = Max(n, 1); t = Concat(m, [4, 2]); y = Reshape(x, t); z = Shape(y)

    round 1: the shape of x is known, so s becomes the constant [2, 8]; n, m and t are computed from constants, so they
             become constants too; inference reads t = [2, 4, 2], and the shape of y is known
    round 2: the shape of y is known, so z becomes a constant, and so on, until a round finds nothing new
"""

from __future__ import annotations

import onnx
from onnx import ModelProto, NodeProto, TensorProto

from mxtools.files.weights import WeightStore
from mxtools.graph.constants import constant_arrays
from mxtools.graph.index import Graph
from mxtools.graph.shapes import Array, Shapes

ROUNDS = 8
"""Most rounds; each computed shape that depends on another computed shape takes one."""
LONGEST = 64
"""The most elements of an integer tensor that is computed: larger ones are no shapes, nor parts of one."""


def static_shapes(model: ModelProto, graph: Graph, weights: WeightStore, shapes: Shapes) -> Shapes:
    """Return the shapes of a model; values that the main graph computes from known shapes count as constants.

    Values have their numbers in `graph`. After every round that finds something new, all shapes are inferred again.
    """
    for _ in range(ROUNDS):
        copy = ModelProto()
        copy.CopyFrom(model)
        found = _fix_shape_nodes(Graph(copy), shapes)
        found |= _fix_computed(copy, Graph(copy), weights, Shapes(copy, graph.names))
        if not found:
            break
        model, graph, shapes = copy, Graph(copy), Shapes(copy, graph.names)
    return shapes


def _fix_shape_nodes(graph: Graph, shapes: Shapes) -> bool:
    """Turn Shape nodes into constants if the shape of their input is known; return whether there were any."""
    found = False
    for node in graph.main:
        proto = graph.nodes[node]
        if graph.operators[node].is_named("Shape") and graph.reads[node]:
            shape = shapes[graph.reads[node][0]]
            if shape is not None and shape.dims is not None and None not in shape.dims:
                bounds = {attribute.name: attribute.i for attribute in proto.attribute}
                dims = [d for d in shape.dims if d is not None][bounds.get("start", 0) : bounds.get("end")]
                _make_constant(proto, onnx.helper.make_tensor("dims", TensorProto.INT64, [len(dims)], dims))
                found = True
    return found


def _fix_computed(model: ModelProto, graph: Graph, weights: WeightStore, shapes: Shapes) -> bool:
    """Turn nodes into constants that compute a possible shape from constants; return whether there were any."""
    wanted = {}
    for node in graph.main:
        made = graph.writes[node]
        if len(made) == 1 and made[0] in graph.constant and not graph.operators[node].is_named("Constant"):
            shape = shapes[made[0]]
            if shape and shape.kind in "ib" and shape.count is not None and shape.count <= LONGEST:
                wanted[made[0]] = graph.nodes[node]
    arrays: dict[int, Array] = constant_arrays(model, graph, weights, shapes, list(wanted))
    for value, array in arrays.items():
        _make_constant(wanted[value], onnx.numpy_helper.from_array(array))
    return bool(arrays)


def _make_constant(node: NodeProto, value: TensorProto) -> None:
    """Turn a node into a Constant in place, with the same name and output."""
    node.CopyFrom(onnx.helper.make_node("Constant", [], list(node.output), name=node.name, value=value))
