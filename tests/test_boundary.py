"""What is known of the tensors at the boundary of a part: shapes that hang on what is computed from constants."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper

from mxtools.costs.integers import LONGEST
from mxtools.cut.boundary import boundary_infos
from mxtools.errors import InputError
from mxtools.files.weights import WeightStore
from mxtools.graph.index import Graph
from mxtools.graph.shapes import inferred_infos
from mxtools.passes.filter import Filter
from mxtools.pipeline.working_model import WorkingModel
from tests.support.cuts import HEAD, cut, tagged

Dims = list[int | str]

EXPANDING = """ g ({input} x, float[2, 64] h) => (float[2, 64] y)
<int64[2] given = {{2, -1}}, int64 minus = {{-1}}> {{
    large = MatMul(h, w)
    asked = Shape(large)
    unsaid = Equal(given, minus)
    shape = Where(unsaid, asked, given)
    a = Expand(x, shape)
    b = Add(a, large)
    y = Neg(b)
}}"""


def test_nodes_behind_the_boundary_are_not_inferred() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 17]>
        g (float[n, m] x) => (float[k] y) {
            a = NonZero(x)
            b = Cast<to = 1>(a)
            c = NonZero(b)
            y = Size(c)
        }"""
    )
    whole, part = inferred_infos(model), inferred_infos(model, names=["b"])
    assert part["a"] == whole["a"]
    assert part["b"] == whole["b"]
    assert "c" in whole
    assert "c" not in part


def test_shapes_that_hang_on_the_inputs_are_inferred_once(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[bool] = []

    def infer(model: ModelProto, propagating: bool = True) -> dict[str, onnx.ValueInfoProto]:
        runs.append(propagating)
        return inferred_infos(model, propagating)

    monkeypatch.setattr("mxtools.graph.shapes.inferred_infos", infer)
    text = '<ir_version: 9, opset_import: ["" : 17]> g (float[n, 2] x) => (float[n, 2] y) { a = Abs(x) y = Neg(a) }'
    model = WorkingModel(onnx.parser.parse_model(text))
    shape = model.shapes[model.graph.by_name["a"]]
    assert shape is not None
    assert shape.dims == (None, 2)
    assert runs == [True]


def dims(info: onnx.ValueInfoProto) -> Dims:
    return [d.dim_param or d.dim_value for d in info.type.tensor_type.shape.dim]


def expanding(input_: str = "float[2, 1]") -> ModelProto:
    """Return a model with a shape that ONNX does not follow: of a Where, as TorchScript writes `expand(2, -1)`."""
    model = tagged(HEAD + EXPANDING.format(input=input_), "b")
    model.graph.initializer.append(numpy_helper.from_array(np.ones((64, 64), np.float32), "w"))
    return model


def test_a_shape_that_hangs_on_constants_is_known() -> None:
    model = expanding()
    assert dims(inferred_infos(model)["a"]) != [2, 64], "ONNX knows it by itself: this tests nothing"
    part = cut(model)
    assert [(value.name, dims(value)) for value in part.graph.input] == [("a", [2, 64]), ("large", [2, 64])]


def test_it_takes_no_weights() -> None:
    """The weight of the product is not there; asking for the types of the boundary must not look for it."""
    model = expanding()
    graph, store = Graph(model), WeightStore()
    weight = model.graph.initializer[-1]
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="lost.data")
    assert dims(boundary_infos(model, graph, store, ["a"])["a"]) == [2, 64]
    assert LONGEST < 64 * 64


def test_where_the_graph_has_symbolic_inputs_nothing_is_asked() -> None:
    part = cut(expanding("float[N, 1]"))
    assert dims(part.graph.input[0]) == dims(inferred_infos(expanding("float[N, 1]"))["a"])


def test_what_the_file_says_stays() -> None:
    model = expanding()
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("a", 1, ["rows", 64]))
    assert dims(cut(model).graph.input[0]) == ["rows", 64]


def test_a_shape_that_hangs_on_values_stays_unknown() -> None:
    text = """ g (float[4] x) => (float[4] y) <int64[1] last = {-1}, int64[1] four = {4}> {
        n = NonZero(x) f = Cast <to = 1> (n) r = Reshape(f, last) b = Neg(r) y = Expand(four, four) }"""
    text = text.replace("y = Expand(four, four)", "s = ReduceSum <keepdims = 0> (b) y = Expand(s, four)")
    part = cut(tagged(HEAD + text, "b"))
    assert not part.graph.input[0].type.tensor_type.shape.dim[0].HasField("dim_value")


def test_a_type_that_nobody_knows_is_refused() -> None:
    model = tagged(HEAD + " g (float[2] x) => (float[2] y) { a = own.Unknown(x) y = Neg(a) }", "y")
    with pytest.raises(InputError, match="type of tensor 'a' is not in the file"):
        boundary_infos(model, Graph(model), WeightStore(), ["a"])


def test_parts_of_a_static_export_are_static(built: Callable[..., Path]) -> None:
    """TorchScript expands BERT's mask by a Where over its shape; each layer is given it."""
    loaded = WorkingModel.read(built("bert", "torchscript") / "tagged.onnx")
    before = inferred_infos(loaded.proto)
    Filter(scope=("encoder.layer.1.attention.self",)).apply(loaded)
    inputs = list(loaded.proto.graph.input)
    assert any(not all(d.HasField("dim_value") for d in before[v.name].type.tensor_type.shape.dim) for v in inputs)
    assert all(d.HasField("dim_value") for v in inputs for d in v.type.tensor_type.shape.dim)
