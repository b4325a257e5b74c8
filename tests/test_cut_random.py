"""Cutting random graphs: each part computes, to the bit, what the whole computes at its place."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from mxtools.errors import AbsentError
from mxtools.passes.filter import Filter
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes import keys

KINDS = ("Neg", "Exp", "Add", "Mul", "Constant", "Shape", "Sizes", "Max", "Reshape", "If", "own")
OF_SHAPES = ("Shape", "Sizes", "Max")
SHAPE = (2, 3)
STEPS = st.lists(
    st.tuples(st.sampled_from(KINDS), st.integers(0, 99), st.integers(0, 99), st.sampled_from("abc")),
    min_size=1,
    max_size=14,
)


def node_of(kind: str, name: str, one: str, two: str, shape: str) -> NodeProto:
    """Return a node that makes a tensor from one or two others, as an operator, a body or a function."""
    if kind == "Constant":
        value = np.full(SHAPE, len(name) + 0.5, np.float32)
        return helper.make_node(kind, [], [name], value=numpy_helper.from_array(value))
    if kind == "Sizes":
        return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.array(SHAPE)))
    if kind == "If":
        info = helper.make_tensor_value_info("r", TensorProto.FLOAT, SHAPE)
        then, other = (
            helper.make_graph(
                [helper.make_node("Mul", [one, x], ["n"]), helper.make_node(op, ["n"], ["r"])], op, [], [info]
            )
            for op, x in (("Neg", two), ("Abs", "w0"))
        )
        return helper.make_node(kind, ["c"], [name], then_branch=then, else_branch=other)
    inputs = [one, two] if kind in ("Add", "Mul", "Max", "own") else [one, shape] if kind == "Reshape" else [one]
    return helper.make_node(kind, inputs, [name], domain="own" if kind == "own" else "")


def model_of(steps: list[tuple[str, int, int, str]], results: list[int]) -> ModelProto:
    """Return a model of some steps over shared initializers; its outputs are some of its tensors."""
    floats, shapes, nodes = ["x", "w0", "w1"], ["s0"], []
    for number, (kind, i, j, scope) in enumerate(steps):
        name = f"t{number}"
        pool = shapes if kind == "Max" else floats
        node = node_of(kind, name, pool[i % len(pool)], pool[j % len(pool)], shapes[j % len(shapes)])
        (shapes if kind in OF_SHAPES else floats).append(name)
        keys.replace_props(node, keys.NODE_KEYS, {keys.SCOPE: scope, keys.TAG: f"/G/{scope}", keys.EVIDENCE: "name"})
        nodes.append(node)
    made = [*floats[3:], *shapes[1:]]
    outputs = [
        helper.make_tensor_value_info(
            name, *((TensorProto.FLOAT, ["N", 3]) if name in floats else (TensorProto.INT64, [2]))
        )
        for name in dict.fromkeys(made[r % len(made)] for r in results)
    ]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3]),
        helper.make_tensor_value_info("c", TensorProto.BOOL, []),
    ]
    weights = {"w0": np.arange(6.0).reshape(SHAPE), "w1": np.full(SHAPE, 0.1), "s0": np.array(SHAPE)}
    stored = [numpy_helper.from_array(v.astype("f" if k != "s0" else "i8"), k) for k, v in weights.items()]
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("own", 1)]
    body = [helper.make_node("Sub", ["p", "q"], ["m"]), helper.make_node("Relu", ["m"], ["r"])]
    function = helper.make_function("own", "own", ["p", "q"], ["r"], body, opsets[:1])
    graph = helper.make_graph(nodes, "g", inputs, outputs, stored)
    return helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=10)


def run(model: ModelProto, feeds: dict[str, Any]) -> dict[str, Any]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, {i.name: feeds[i.name] for i in session.get_inputs()}), strict=True))


def read_outside(model: ModelProto, scope: str) -> set[str]:
    """Return the outputs, and what nodes of other scopes and their bodies read."""
    others = [n for n in model.graph.node if keys.props(n)[keys.SCOPE] != scope]
    inner = [m for n in others for a in n.attribute for m in a.g.node]
    return {o.name for o in model.graph.output} | {i for n in (*others, *inner) for i in n.input}


@settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(STEPS, st.lists(st.integers(0, 99), min_size=1, max_size=3), st.booleans())
def test_parts_of_random_graphs(steps: list[tuple[str, int, int, str]], results: list[int], condition: bool) -> None:
    model = model_of(steps, results)
    onnx.checker.check_model(model, full_check=True)
    probe = ModelProto.FromString(model.SerializeToString())
    known = {o.name for o in probe.graph.output}
    probe.graph.output.extend(
        onnx.ValueInfoProto(name=n.output[0]) for n in probe.graph.node if n.output[0] not in known
    )
    feeds = {"x": np.linspace(-1, 1, 6, dtype=np.float32).reshape(SHAPE), "c": np.array(condition)}
    values = feeds | run(probe, feeds)
    for scope in [".", *sorted({step[3] for step in steps})]:
        part = ModelProto.FromString(model.SerializeToString())
        made = {n.output[0] for n in part.graph.node if keys.props(n)[keys.SCOPE] == scope}
        try:
            Filter(scope=(scope,)).apply(WorkingModel(part))
        except AbsentError:
            assert not read_outside(model, scope) & made
            continue
        onnx.checker.check_model(part, full_check=True)
        if scope == ".":
            assert [o.name for o in part.graph.output] == [o.name for o in model.graph.output]
        for name, result in run(part, values).items():
            assert result.tobytes() == values[name].tobytes(), name
