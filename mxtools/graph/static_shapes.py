"""Shapes of a graph whose inputs have fixed ones, followed through what is computed from shapes.

ONNX's own inference follows a few operators only; TorchScript's exporter compares and selects dimensions, and the
shapes after that would be unknown.
"""

from __future__ import annotations

from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from mxtools.files.weights import WeightStore
from mxtools.graph.constants import constant_arrays
from mxtools.graph.index import Graph
from mxtools.graph.shapes import Array, Shapes

ROUNDS = 8
"""How often is looked whether more shapes are known now, and so more is computed from them."""
LONGEST = 64
"""Elements of what can be a shape, or a part of one."""


def static_shapes(model: ModelProto, graph: Graph, weights: WeightStore, shapes: Shapes) -> Shapes:
    """Give the shapes of a model where what is computed from known shapes, in the main graph, counts as constant.

    Values have the numbers of `graph`. Takes an inference of all shapes for each round in which more became known.
    """
    for _ in range(ROUNDS):
        copy = ModelProto()
        copy.CopyFrom(model)
        found = _asked(copy, graph, shapes)
        within = Graph(copy)
        found |= _computed(copy, within, weights, Shapes(copy, graph.names))
        if not found:
            break
        model, graph, shapes = copy, Graph(copy), Shapes(copy, graph.names)
    return shapes


def _asked(model: ModelProto, graph: Graph, shapes: Shapes) -> bool:
    """Make constants of the Shape nodes of tensors of known shapes; tell whether there were any."""
    found = False
    for node, proto in zip(graph.main, model.graph.node, strict=True):
        if graph.operators[node].onnx_name == "Shape" and graph.reads[node]:
            shape = shapes[graph.reads[node][0]]
            if shape is not None and shape.dims is not None and None not in shape.dims:
                said = {attribute.name: attribute.i for attribute in proto.attribute}
                dims = [d for d in shape.dims if d is not None][said.get("start", 0) : said.get("end")]
                _fix(proto, helper.make_tensor("dims", TensorProto.INT64, [len(dims)], dims))
                found = True
    return found


def _computed(model: ModelProto, graph: Graph, weights: WeightStore, shapes: Shapes) -> bool:
    """Make constants of the nodes that compute from constants what can be a shape; tell whether there were any."""
    wanted = {}
    for node, proto in zip(graph.main, model.graph.node, strict=True):
        made = graph.writes[node]
        if len(made) == 1 and made[0] in graph.constant and graph.operators[node].onnx_name != "Constant":
            shape = shapes[made[0]]
            if shape and shape.kind in "ib" and shape.count is not None and shape.count <= LONGEST:
                wanted[made[0]] = proto
    arrays: dict[int, Array] = constant_arrays(model, graph, weights, shapes, list(wanted))
    for value, array in arrays.items():
        _fix(wanted[value], numpy_helper.from_array(array))
    return bool(arrays)


def _fix(node: NodeProto, value: TensorProto) -> None:
    """Make a node a constant, in place."""
    node.CopyFrom(helper.make_node("Constant", [], list(node.output), name=node.name, value=value))
