"""Integers that are computed from shapes, against what ONNX Runtime computes."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, parser

from mxtools.costs import integers as followed
from mxtools.costs.integers import Integers, integers
from mxtools.pipeline.working_model import WorkingModel
from mxtools.runtime.sessions import inner_values

GRAPH = """
<ir_version: 10, opset_import: ["" : {opset}]>
g (float[2, {dim}, 8] x) => (float[a, b, c] y)
<int64[1] one = {{1}}, int64[1] zero = {{0}}, int64[1] minus = {{-1}}, int64[3] t = {{2, -1, 8}}, int64 three = {{3}},
 int32[1] small = {{7}}, bool[3] m = {{1, 0, 1}}, int64[1] most = {{9223372036854775807}}> {{
    y = Neg(x)
    s = Shape(x)
    {line}
}}
"""

LINES = (
    "r = Shape<start = 1>(x)",
    "r = Shape<start = -2, end = -1>(x)",
    "r = Size(x)",
    "r = Identity(s)",
    "r = Add(s, one)",
    "r = Sub(s, three)",
    "r = Mul(s, t)",
    "r = Div(t, three)",
    "d = Neg(s) r = Div(d, three)",
    "r = Max(s, t, three)",
    "r = Min(s, t)",
    "r = Neg(t)",
    "r = Abs(t)",
    "r = Equal(s, t)",
    "r = Greater(s, t)",
    "r = GreaterOrEqual(s, t)",
    "r = Less(s, three)",
    "r = LessOrEqual(s, t)",
    "e = Equal(s, t) r = Not(e)",
    "e = Equal(s, t) r = And(e, m)",
    "e = Equal(s, t) r = Or(e, m)",
    "e = Equal(s, t) r = Where(e, s, minus)",
    "r = Gather(s, three)",  # beyond the end: what ONNX Runtime refuses is unknown here
    "i = Constant<value_int = -1>() r = Gather(s, i)",
    "i = Constant<value_ints = [2, 0]>() r = Gather(s, i)",
    "i = Constant<value = int64[1] {1}>() r = Gather(s, i)",
    "r = Concat<axis = 0>(s, minus, t)",
    "r = Slice(s, one, most)",
    "r = Slice(s, minus, zero, zero, minus)",
    "r = Slice(s, one, most, , one)",
    "i = Constant<value_int = 1>() d = Gather(s, i) r = Unsqueeze(d, zero)",
    "d = Slice(s, one, most) e = Slice(d, one, most) r = Squeeze(e, zero)",
    "d = Slice(s, one, most) e = Slice(d, one, most) r = Squeeze(e)",
    "r = Reshape(s, minus)",
    "i = Constant<value_int = 1>() d = Gather(s, i) r = Reshape(d, minus)",
    "r = ReduceProd<keepdims = 0>(s)",
    "r = ReduceProd(s, zero)",
    "r = ReduceSum(s)",
    "r = ReduceSum<noop_with_empty_axes = 1>(s)",
    "r = ReduceMax(s, zero)",
    "r = ReduceMin<keepdims = 0>(s, zero)",
    "r = Cast<to = 6>(s)",
    "r = Cast<to = 9>(s)",
    "r = Cast<to = 7>(small)",
    "i = Shape(s) r = ConstantOfShape<value = int64[1] {5}>(i)",
    "i = Shape(s) r = ConstantOfShape(i)",  # floats
    "f = Cast<to = 1>(s) r = Floor(f)",
    "d = Mul(s, most) r = Identity(d)",  # overflows
    "d = Sub(s, s) r = Div(s, d)",
)


def computed(line: str, dim: str = "3", opset: int = 18) -> tuple[Integers | str, object]:
    """Return what is known of `r`, "unknown" if nothing is, and what ONNX Runtime makes of it."""
    model = WorkingModel(parser.parse_model(GRAPH.format(line=line, dim=dim, opset=opset)))
    graph = model.graph
    known = integers(graph, model.weights, model.shapes).get(graph.by_name["r"], "unknown")
    if "Div(s, d)" in line:  # by zero: ONNX Runtime ends with a signal
        return known, None
    try:
        feeds = {"x": np.ones((2, 3, 8), np.float32)}
        return known, dict(inner_values(model.proto, model.weights, feeds, {"r": 1}))["r"]
    except Exception:
        return known, None


@pytest.mark.parametrize("line", LINES)
def test_what_is_known_is_what_onnx_runtime_computes(line: str) -> None:
    known, found = computed(line)
    if known == "unknown":
        assert line in UNKNOWN
    else:
        assert isinstance(found, np.ndarray)
        assert known == (tuple(map(int, found)) if found.ndim else int(found))


UNKNOWN = {line for line in LINES if "three)" in line and "Gather" in line} | {
    "r = ReduceSum<noop_with_empty_axes = 1>(s)",
    "i = Shape(s) r = ConstantOfShape(i)",
    "f = Cast<to = 1>(s) r = Floor(f)",
    "d = Mul(s, most) r = Identity(d)",
    "d = Sub(s, s) r = Div(s, d)",
}


def test_every_operator_has_a_line() -> None:
    named = " ".join(LINES)
    assert not [name for name in followed._FOLLOWED if f" {name}(" not in named and f" {name}<" not in named]


def test_before_version_13_axes_are_attributes() -> None:
    for line in (
        "d = Slice<starts = [1], ends = [2]>(s) r = Squeeze<axes = [0]>(d)",
        "i = Constant<value = int64 {1}>() d = Gather(s, i) r = Unsqueeze<axes = [0]>(d)",
        "r = ReduceProd<axes = [0], keepdims = 0>(s)",
    ):
        known, found = computed(line, opset=9)
        assert isinstance(found, np.ndarray)
        assert known == (tuple(map(int, found)) if found.ndim else int(found))


def test_unknown_dimensions_stay_unknown_and_leave_the_others() -> None:
    assert computed("r = Mul(s, t)", dim="n")[0] == (4, None, 64)
    assert computed("r = Slice(s, minus, most)", dim="n")[0] == (8,)
    assert computed("r = ReduceProd(s)", dim="n")[0] == "unknown"


def test_an_input_with_a_default_is_unknown() -> None:
    """The default of an input in a file of IR version 3 may be overridden."""
    model = WorkingModel(parser.parse_model(GRAPH.format(line="r = Add(s, one)", dim="3", opset=18)))
    assert model.graph.by_name["r"] in integers(model.graph, model.weights, model.shapes)
    model.proto.graph.input.append(helper.make_tensor_value_info("one", TensorProto.INT64, [1]))
    with_default = WorkingModel(model.proto)
    assert with_default.graph.by_name["r"] not in integers(with_default.graph, model.weights, with_default.shapes)
