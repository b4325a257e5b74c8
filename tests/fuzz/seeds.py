"""What is mutated: small sound models that have something of everything, and the files that go with them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx.backend.test
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser
from onnx.helper import make_node as node
from onnx.helper import make_tensor_value_info as info

import mxtools
from tests.support import cuts

FLOAT = TensorProto.FLOAT


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
    return found


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


def trace() -> dict[str, Any]:
    """Return a sidecar of the first model."""

    def tensor(number: int) -> dict[str, Any]:
        return {"name": "x", "id": number, "shape": [2, 4], "dtype": "float32"}

    calls: list[dict[str, Any]] = [
        {"scope": ".", "tag": "/Net", "module": ".", "inputs": [tensor(0)], "outputs": [tensor(3)]}
    ]
    modules: list[dict[str, Any]] = [{"path": ".", "class": "Net", "qualified_class": "n.Net"}]
    for layer in range(3):
        scope = f"layers.{layer}"
        weight = {"name": "weight", "kind": "parameter", "shape": [4, 4], "dtype": "float32"}
        modules += [
            {"path": scope, "class": "Layer", "qualified_class": "n.Layer"},
            {"path": f"{scope}.linear", "class": "Linear", "qualified_class": "n.Linear", "weights": [weight]},
        ]
        ends = {"inputs": [tensor(layer)], "outputs": [tensor(layer + 1)]}
        calls += [
            {"scope": scope, "tag": f"/Net/Layer.{layer}", "module": scope, "parent": 0, **ends},
            {
                "scope": f"{scope}.linear",
                "tag": f"/Net/Layer.{layer}/Linear",
                "module": f"{scope}.linear",
                "parent": len(calls),
                **ends,
            },
        ]
    model = {"class": "Net", "qualified_class": "n.Net", "spec": "net", "inputs": [tensor(0)]}
    return {
        "schema": "mxtools.trace/1",
        "producer": {},
        "model": model,
        "modules": modules,
        "calls": calls,
        "operations": [[2, "linear", [0], [9]]],
    }


def arrays() -> bytes:
    """Return a .npz file of inputs."""
    file = io.BytesIO()
    np.savez_compressed(file, x=np.ones((2, 4), np.float32))
    return file.getvalue()


def settings() -> Mapping[str, str]:
    """Return configurations by file name."""
    return {
        "mxtools.toml": '[strategies.own]\npipeline = "untag,project-names"\nhelp = "text"\nexporter = "auto"\n',
        "pyproject.toml": '[tool.mxtools.strategies.own]\npipeline = "untag"\n',
    }


def values() -> dict[str, Any]:
    """Return inputs as JSON."""
    return {"x": json.loads("[[1,2,3,4],[1,2,3,4]]")}


def profile() -> list[dict[str, Any]]:
    """Return a profile as ONNX Runtime writes it."""
    session = {"cat": "Session", "name": "model_run", "ts": 0, "dur": 100, "pid": 1, "tid": 1, "ph": "X", "args": {}}
    names = ["/layers.0/linear/MatMul", "/enc/Add", "/loop/Loop"]
    kernels = [
        {**session, "cat": "Node", "name": f"{name}_kernel_time", "ts": 5 + i, "dur": 1, "args": {"op_name": "MatMul"}}
        for i, name in enumerate(names)
    ]
    return [session, *kernels]


def report() -> dict[str, Any]:
    """Return what `mx profile --json` writes."""
    kernel = {"name": "k", "operator": "MatMul", "provider": "CPU", "microseconds": 1.0}
    module = {"scope": "layers.0", "tag": "/M/layers.0", "microseconds": 1.0, "own": 1.0, "kernels": [kernel]}
    rest = {"runs": 1, "microseconds": 1.0, "attributed": 1.0, "modules": [module], "unattributed": []}
    return {"schema": "mxtools.profile/1", "runtime": "ONNX Runtime", **rest}


def metrics() -> dict[str, Any]:
    """Return metrics by scope."""
    return {"time": {"layers.0": 0.5, "enc": 1, "loop": 2, ".": 3}}


def manifest() -> dict[str, Any]:
    """Return the manifest of a split."""
    part = {
        "file": "00-layers.0.onnx",
        "scope": "layers.0",
        "inputs": [{"name": "x", "source": "model"}],
        "outputs": ["y"],
    }
    ends = {"inputs": ["x"], "outputs": [{"name": "y", "source": "00-layers.0.onnx"}]}
    return {"schema": "mxtools.split/1", **ends, "parts": [part], "data": "weights.data"}


FILES: Mapping[str, Callable[[], Any]] = {
    "t.json": trace,
    "i.json": values,
    "p.json": profile,
    "r.json": report,
    "k.json": metrics,
    "parts/manifest.json": manifest,
}
"""The JSON files of a try."""
