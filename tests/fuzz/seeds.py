"""What is mutated: small sound models that have something of everything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx.backend.test
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser
from onnx.helper import make_node as node
from onnx.helper import make_tensor_value_info as info

import mxtools
from tests.support import cuts

FLOAT = TensorProto.FLOAT
DATA = "w.data"
"""The file with the weights of a model, from the offset 4096."""
LARGEST = 20_000
"""Bytes of the models of the onnx package that are taken."""


def models() -> list[ModelProto]:
    """Return the models, tagged."""
    nested = parser.parse_model(cuts.HEAD + cuts.NESTED)
    found = [_layers(), _bodies(), _functions(), _elements(), nested, *_of_onnx()]
    for proto in found:
        model = mxtools.from_proto(proto)
        model.tag()
        proto.CopyFrom(model.to_proto())
    return [*found, _external(found[0])]


def _of_onnx() -> Iterator[ModelProto]:
    """Yield small models that the onnx package tests backends with."""
    for file in sorted(Path(onnx.backend.test.__file__).parent.glob("data/*/*/model.onnx")):
        if file.stat().st_size < LARGEST:
            yield onnx.load(file)


def _layers() -> ModelProto:
    nodes, weights, before = [], [], "x"
    for layer in range(3):
        scope = f"layers.{layer}"
        weights.append(numpy_helper.from_array(np.full((4, 4), layer, np.float32), f"{scope}.linear.weight"))
        nodes.append(node("MatMul", [before, weights[-1].name], [f"m{layer}"], name=f"/{scope}/linear/MatMul"))
        nodes.append(node("Relu", [f"m{layer}"], [f"r{layer}"], name=f"/{scope}/act/Relu"))
        before = f"r{layer}"
    nodes += [
        node("Shape", ["x"], ["s"], name="/Shape"),
        node("Reshape", [before, "s"], ["y"], name="/head/Reshape"),
    ]
    weights.append(numpy_helper.from_array(np.ones((300, 4), np.float32), "unused"))
    graph = helper.make_graph(nodes, "g", [info("x", FLOAT, ["N", 4])], [info("y", FLOAT, ["N", 4])], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def _bodies() -> ModelProto:
    body = [
        node("Add", ["v", "w"], ["v2"], name="/loop/step/Add"),
        node("Identity", ["go"], ["go2"]),
    ]
    ends = [info("i", TensorProto.INT64, []), info("go", TensorProto.BOOL, []), info("v", FLOAT, [4])]
    loop = helper.make_graph(body, "body", ends, [info("go2", TensorProto.BOOL, []), info("v2", FLOAT, [4])])
    nodes = [
        node("Loop", ["n", "", "x"], ["l"], name="/loop/Loop", body=loop),
        node("Tanh", ["l"], ["y"], name="/end/Tanh"),
    ]
    weights = [numpy_helper.from_array(np.ones(4, np.float32), "w"), numpy_helper.from_array(np.array(2), "n")]
    graph = helper.make_graph(nodes, "g", [info("x", FLOAT, [4])], [info("y", FLOAT, [4])], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def _functions() -> ModelProto:
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("own", 1)]
    inner = helper.make_function("own", "Inner", ["a"], ["b"], [node("Relu", ["a"], ["b"], name="/act/Relu")], imports)
    outer_nodes = [node("Inner", ["a"], ["m"], domain="own", name="/one"), node("Neg", ["m"], ["b"], name="/two/Neg")]
    outer = helper.make_function("own", "Outer", ["a"], ["b"], outer_nodes, imports, attributes=["alpha"])
    nodes = [
        node("Outer", ["x"], ["h"], domain="own", name="/blk/Outer", alpha=1),
        node("Inner", ["h"], ["y"], domain="own", name="/last/Inner"),
    ]
    graph = helper.make_graph(nodes, "g", [info("x", FLOAT, [4])], [info("y", FLOAT, [4])])
    return helper.make_model(graph, functions=[inner, outer], opset_imports=imports, ir_version=10)


def _elements() -> ModelProto:
    scale = numpy_helper.from_array(np.array(0.1, np.float32), "scale")
    zero = helper.make_tensor("zero", TensorProto.UINT8, [], [3])
    text = helper.make_tensor("text", TensorProto.STRING, [1], [b"t"])
    small = helper.make_tensor("small", TensorProto.INT4, [3], [1, 2, 3])
    half = helper.make_tensor("half", TensorProto.BFLOAT16, [2], [1.0, 2.0])
    sparse = helper.make_sparse_tensor(
        helper.make_tensor("sp", FLOAT, [2], [1.0, 2.0]), helper.make_tensor("ix", TensorProto.INT64, [2], [0, 3]), [4]
    )
    nodes = [
        node("QuantizeLinear", ["x", "scale", "zero"], ["q"], name="/enc/q/QuantizeLinear"),
        node("DequantizeLinear", ["q", "scale", "zero"], ["d"], name="/enc/dq/DequantizeLinear"),
        node("Add", ["d", "sp"], ["y"], name="/enc/Add"),
        node("Cast", ["half"], ["c"], name="/enc/Cast", to=int(FLOAT)),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [info("x", FLOAT, [4])],
        [info("y", FLOAT, [4]), info("c", FLOAT, [2])],
        [scale, zero, text, small, half],
    )
    graph.sparse_initializer.append(sparse)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def _external(layers: ModelProto) -> ModelProto:
    """Return a model with a weight in another file."""
    model = ModelProto.FromString(layers.SerializeToString())
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "layers.1.linear.weight")
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", DATA), ("offset", "4096"), ("length", "64")):
        weight.external_data.add(key=key, value=value)
    return model
