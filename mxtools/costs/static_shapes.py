"""Shapes of a graph whose inputs have fixed shapes, followed through values that the graph computes from shapes.

ONNX's own inference follows computed shapes through a few operators only, but TorchScript's exporter also compares and
selects dimensions. So this goes in rounds: in each round, what is known becomes a constant. With an input x of shape
[2, 8]:

    s = Shape(x); n = Gather(s, 0); m = Max(n, 1); t = Concat(m, [4]); y = Reshape(x, t); z = Shape(y)

    round 1: s, n, m and t are known, and become constants; inference reads t = [2, 4], and the shape of y is known
    round 2: z is known, and becomes a constant, and so on, until a round finds nothing new
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import onnx
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto

from mxtools.costs.integers import LONGEST, integers
from mxtools.files.weights import WeightStore
from mxtools.graph.constants import constant_arrays
from mxtools.graph.index import Graph
from mxtools.graph.shapes import Array, Shapes

ROUNDS = 8
"""Most rounds; each computed shape that depends on another computed shape takes one."""


def static_shapes(model: ModelProto, graph: Graph, weights: WeightStore, shapes: Shapes) -> Shapes:
    """Return the shapes of a model; values that the main graph computes from known shapes count as constants.

    Values have their numbers in `graph`. After every round that finds something new, all shapes are inferred again.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    nodes = dict(zip(graph.main, copy.graph.node, strict=True))
    fixed = {graph.writes[node][0] for node in graph.main if graph.operators[node].is_named("Constant")}
    for _ in range(ROUNDS):
        found = _integers(graph, weights, shapes, fixed) or _computed(copy, weights, shapes, graph.names)
        if not found:
            break
        for value, tensor in found.items():
            _make_constant(nodes[graph.producer[value]], tensor)
        fixed |= found.keys()
        shapes = Shapes(copy, graph.names)
    return shapes


def _integers(graph: Graph, weights: WeightStore, shapes: Shapes, fixed: Collection[int]) -> dict[int, TensorProto]:
    """Return what is computed from shapes and is not fixed yet, by value."""
    found = {}
    for value, held in integers(graph, weights, shapes).items():
        elements = held if isinstance(held, tuple) else (held,)
        if value not in fixed and None not in elements and (shape := shapes[value]) and shape.kind in "ib":
            dims = [len(elements)] if isinstance(held, tuple) else []
            found[value] = TensorProto(data_type=shape.element, dims=dims)
            data = found[value].int64_data if shape.element == TensorProto.INT64 else found[value].int32_data
            data.extend(elements)
    return found


def _computed(model: ModelProto, weights: WeightStore, shapes: Shapes, names: Sequence[str]) -> dict[int, TensorProto]:
    """Return what else is computed from constants and can be a shape, as by way of floats, by its number in `names`."""
    graph, numbers = Graph(model), {name: value for value, name in enumerate(names)}
    wanted = {}
    for node in graph.main:
        made = graph.writes[node]
        if len(made) == 1 and made[0] in graph.constant and not graph.operators[node].is_named("Constant"):
            value = numbers[graph.names[made[0]]]
            shape = shapes[value]
            if shape and shape.kind in "ib" and shape.count is not None and shape.count <= LONGEST:
                wanted[made[0]] = value
    arrays: dict[int, Array] = constant_arrays(model, graph, weights, Shapes(model, graph.names), list(wanted))
    return {wanted[value]: onnx.numpy_helper.from_array(array) for value, array in arrays.items()}


def _make_constant(node: NodeProto, value: TensorProto) -> None:
    """Turn a node into a Constant in place, with the same name and output."""
    held = AttributeProto(name="value", type=AttributeProto.TENSOR, t=value)
    node.CopyFrom(NodeProto(op_type="Constant", output=node.output, name=node.name, attribute=[held]))
