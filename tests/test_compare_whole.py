"""`mx compare`: differences that no module shows by itself, since each has the same nodes and the same weights."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper

from mxtools.comparison.comparison import Comparison, compare
from mxtools.graph.functions import model_nodes
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes import keys

HEAD = '<ir_version: 10, opset_import: ["" : 21, "f" : 1]>'
WEIGHTS = {name: np.full(4, value, np.float32) for value, name in enumerate(("v", "w"))}
EQUAL = "g (float[4] x, float[4] u) => (float[4] y) { a = Add(x, v) b = Add(u, w) y = Sub(a, b) }"
BODY = """g (bool c, float[4] x) => (float[4] y) {
    p, q = If (c) <
        then_branch = yes () => (float[4] t, float[4] r) { t = Neg(x) r = Add(x, v) },
        else_branch = no () => (float[4] e, float[4] s) { e = Abs(x) s = Add(x, w) }>
    y = Sub(p, q)
}"""
LOOP = """g (int64 n, float[4] x) => (float[4] y, float[4] z) {
    y, z = Loop (n, , x, x) <
        body = b (int64 i, bool c, float[4] s, float[4] t) => (bool d, float[4] k, float[4] l) {
            d = Identity(c) k = Sub(s, t) l = Neg(s) }>
}"""
CALL = """g (float[2, 3, 4] x) => (float[2, 3, 4] y) { a, b = f.pair(x, x) y = Sub(a, b) }
<domain: "f", opset_import: ["" : 21]>
pair <alpha: float = 0.5> (p, q) => (r, s) { r = Softmax(p) s = Elu <alpha: float = @alpha> (q) }"""
OMITTED = "g (float[4] x, float k) => (float[4] y) { y = Clip(x, k) }"
SPLIT = "g (float[4] x) => (float[2] y) { y, z = Split <num_outputs = 2> (x) }"

CHANGED = {
    "inputs of equal nodes": (EQUAL, "a = Add(x, v) b = Add(u, w)", "a = Add(u, v) b = Add(x, w)"),
    "weights of equal nodes": (EQUAL, "a = Add(x, v) b = Add(u, w)", "a = Add(x, w) b = Add(u, v)"),
    "results of a body": (BODY, "float[4] t, float[4] r", "float[4] r, float[4] t"),
    "weights of bodies": (BODY, BODY, BODY.replace("v)", "_)").replace("w)", "v)").replace("_)", "w)")),
    "inputs of a body": (LOOP, "float[4] s, float[4] t", "float[4] t, float[4] s"),
    "results of a function": (CALL, "=> (r, s)", "=> (s, r)"),
    "inputs of a function": (CALL, "(p, q) =>", "(q, p) =>"),
    "operators of a function": (CALL, '["" : 21]>\npair', '["" : 11]>\npair'),
    "the default of a function": (CALL, "float = 0.5", "float = 0.6"),
    "the place of an input": (OMITTED, "Clip(x, k)", "Clip(x, , k)"),
}


def model(text: str) -> ModelProto:
    """Return a model whose nodes are all in one module."""
    found = onnx.parser.parse_model(f"{HEAD}\n{text}")
    found.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in WEIGHTS.items())
    for node in model_nodes(found):
        keys.replace_props(node, keys.NODE_KEYS, {keys.SCOPE: "one", keys.TAG: "/M/One"})
    return found


def compared(one: ModelProto, other: ModelProto) -> Comparison:
    return compare(WorkingModel(one), WorkingModel(other))


@pytest.mark.parametrize(("text", "before", "after"), CHANGED.values(), ids=CHANGED.keys())
def test_what_equal_nodes_compute(text: str, before: str, after: str) -> None:
    assert before in text
    one, other = model(text), model(text.replace(before, after))
    found = compared(one, other)
    assert {module.scope: module.differs(0) for module in found.differing(0)} == {"one": ["nodes"]}
    assert not found.interface
    assert not compared(one, one).differing(0)


def test_an_output_that_is_another_weight() -> None:
    one, other = (model("g (float[4] x) => (float[4] y, float[4] v) { y = Relu(x) }") for _ in range(2))
    other.graph.initializer[0].CopyFrom(numpy_helper.from_array(WEIGHTS["w"], "v"))
    found = compared(one, other)
    assert [change.name for change in found.interface] == ["what is returned as v"]
    assert not compared(one, one).interface


def test_an_output_that_is_another_result_of_the_same_node() -> None:
    found = compared(model(SPLIT), model(SPLIT.replace("y, z = ", "z, y = ")))
    assert [change.name for change in found.interface] == ["what is returned as y"]


def test_omitted_values_at_the_end_need_not_be_listed() -> None:
    one, other = model(OMITTED), model(OMITTED)
    other.graph.node[0].input.append("")
    other.graph.node[0].output.append("")
    found = compared(one, other)
    assert not found.differing(0)
    assert not found.interface
