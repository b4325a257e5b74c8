"""Cutting everything that ONNX has: small graphs, and what a cut keeps of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, ModelProto, TensorProto, helper, numpy_helper

from mxtools.files.writing import write_model
from mxtools.graph.index import Graph
from mxtools.passes.filter import Filter
from mxtools.pipeline.working_model import WorkingModel
from mxtools.views.tree import tree
from tests.support.cuts import HEAD, NESTED, Names, cut, shape, tagged
from tests.support.running import session

CASES: dict[str, tuple[str, tuple[str, ...], tuple[Names, Names, Names, Names]]] = {
    "a body in a body captures from two levels up": (
        NESTED,
        ("b",),
        (["k", "b"], ["c", "d", "x", "a"], ["b"], ["w"]),
    ),
    "sibling bodies use the same names": (
        """ g (bool c, float[2] x) => (float[2] y) {
            a = Neg(x)
            b = If (c) <
                then_branch = t () => (float[2] p) { n = Abs(a)  p = Relu(n) },
                else_branch = e () => (float[2] p) { n = Exp(x)  p = Relu(n) }
            >
            y = Relu(b)
        }""",
        ("b",),
        (["b"], ["c", "x", "a"], ["b"], []),
    ),
    "Loop": (
        """ g (int64 n, float[2] x) => (float[2] y) <float[2] w = {1, 2}> {
            a = Neg(x)
            t = Constant <value = bool {1}> ()
            b, h = Loop (n, t, x) <
                body = step (int64 i, bool go, float[2] s) => (bool go2, float[2] s2, float[2] h1) {
                    go2 = Identity(go)
                    s1 = Add(s, a)
                    s2 = Mul(s1, w)
                    h1 = Neg(s2)
                }
            >
            hh = ReduceSum(h)
            y = Add(b, hh)
        }""",
        ("b",),
        (["t", "b"], ["n", "x", "a"], ["b", "h"], ["w"]),
    ),
    "Scan": (
        """ g (float[3, 2] x, float[2] s) => (float[3, 2] y) {
            a = Neg(s)
            f, b = Scan <num_scan_inputs = 1,
                body = step (float[2] u, float[2] e) => (float[2] u2, float[2] o) { u2 = Add(u, e)  o = Mul(u2, a) }
            > (s, x)
            y = Relu(b)
        }""",
        ("f",),
        (["f"], ["x", "s", "a"], ["b"], []),
    ),
    "empty optional inputs and outputs": (
        """ g (float[2, 3] x) => (float[2, 3] y) <float lo = {0}> {
            a = Neg(x)
            b = Clip(a, , lo)
            d, = Dropout(b)
            y = Relu(d)
        }""",
        ("b", "d"),
        (["b", "d"], ["a"], ["d"], ["lo"]),
    ),
    "sequences": (
        """ g (float[2] x) => (float[2] y) {
            s = SequenceConstruct(x, x)
            z = Constant <value = int64 {0}> ()
            a = SequenceInsert(s, x)
            y = SequenceAt(a, z)
        }""",
        ("a",),
        (["a"], ["x", "s"], ["a"], []),
    ),
    "optionals": (
        """ g (float[2] x) => (float[2] y) {
            a = Neg(x)
            o = Optional(a)
            b = OptionalGetElement(o)
            y = Relu(b)
        }""",
        ("b",),
        (["b"], ["o"], ["b"], []),
    ),
    "a tensor of which only the shape is read is not returned": (
        """ g (float[N, 4] x) => (float[N, 4] y) {
            a = Neg(x)
            b = Abs(a)
            s = Shape(b)
            y = Reshape(a, s)
        }""",
        ("a", "b"),
        (["a", "b"], ["x"], ["a"], []),
    ),
    "constants that a shape chain reads come along": (
        """ g (float[N, 4] x) => (float[4, N] y) {
            a = Neg(x)
            b = Abs(a)
            s = Shape(b)
            i = Constant <value = int64[2] {1, 0}> ()
            t = Gather(s, i)
            c = Reshape(b, t)
            z = Constant <value = float {0}> ()
            e = Expand(z, t)
            y = Add(c, e)
        }""",
        ("a", "c"),
        (["a", "s", "i", "t", "c"], ["x", "b"], ["a", "c"], []),
    ),
    "random operators are not copied": (
        """ g (float[2] x) => (float[2] y) {
            r = RandomNormal <shape = [2]> ()
            a = Add(x, r)
            y = Sub(a, r)
        }""",
        ("y",),
        (["y"], ["a", "r"], ["y"], []),
    ),
    "nor are functions and shape chains that hold one": (
        """ g (float[2] x) => (float[2] y) {
            r = own.noise()
            s = Shape(x)
            o = ConstantOfShape(s)
            q = RandomNormalLike(o)
            a = Add(x, r)
            b = Add(x, q)
            y = Sub(a, b)
        }
        <domain: "own", opset_import: ["" : 21, "own" : 1]> noise () => (q) { q = own.inner() }
        <domain: "own", opset_import: ["" : 21]> inner () => (q) { q = RandomNormal <shape = [2]> () }""",
        ("a", "b"),
        (["a", "b"], ["x", "r", "q"], ["a", "b"], []),
    ),
    "an output that is an input and one that is a constant": (
        """ g (float[2] x, float[2] u) => (float[2] x, float[2] w, float[2] y)
            <float[2] w = {1, 2}, float[2] v = {0, 0}> {
            y = Neg(x)
        }""",
        ("y",),
        (["y"], ["x", "u"], ["x", "w", "y"], ["w"]),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_kept(name: str) -> None:
    text, outputs, expected = CASES[name]
    model = tagged(HEAD + text, *outputs)
    before = {n.SerializeToString() for n in model.graph.node}
    part = cut(model)
    assert shape(part) == expected
    assert all(n.SerializeToString() in before for n in part.graph.node)
    assert part.opset_import == model.opset_import


def test_initializers_that_are_inputs_stay_both() -> None:
    text = (
        '<ir_version: 3, opset_import: ["" : 12]>'
        + """ g (float[2] x, float[2] w, float[2] v) => (float[2] y)
        <float[2] w = {1, 2}, float[2] v = {3, 4}> { a = Mul(x, w)  y = Add(a, v) }"""
    )
    model = tagged(text, "a")
    model.ir_version = 10
    part = cut(model)
    assert shape(part) == (["a"], ["x", "w"], ["a"], ["w"])
    assert [i.name for i in session(part).get_inputs()] == ["x"]
    x = np.array([1, 1], np.float32)
    assert session(part).run(None, {"x": x})[0].tolist() == [1, 2]
    assert session(part).run(None, {"x": x, "w": 3 * x})[0].tolist() == [3, 3]
    report = Filter(scope=("m",), verify=True).apply(WorkingModel(model))
    assert report.to_dict()["verify"] == [{"output": "a", "max_abs": 0, "max_rel": 0}]


def sparse_model() -> ModelProto:
    model = tagged(HEAD + " g (float[2, 3] x) => (float[2, 2] y) { a = Neg(x) b = MatMul(a, w) y = Relu(b) }", "b")
    for name in ("w", "unused"):
        values = numpy_helper.from_array(np.array([5, 7], np.float32), name)
        model.graph.sparse_initializer.append(
            helper.make_sparse_tensor(values, numpy_helper.from_array(np.array([0, 5])), [3, 2])
        )
    return model


def test_sparse_initializers_that_are_read_are_kept() -> None:
    model = sparse_model()
    model.graph.value_info.append(helper.make_tensor_value_info("b", 1, [2, 2]))
    part = ModelProto.FromString(model.SerializeToString())
    Filter(scope=("m",)).apply(WorkingModel(part))
    assert shape(part) == (["b"], ["a"], ["b"], ["w"])
    assert part.graph.sparse_initializer[0] == model.graph.sparse_initializer[0]
    (result,) = session(part).run(None, {"a": np.ones((2, 3), np.float32)})
    assert result.tolist() == [[5, 7], [5, 7]]


def test_sparse_initializers_are_no_dense_ones() -> None:
    graph = Graph(sparse_model())
    assert not graph.initializers
    assert {graph.names[v] for v in graph.stored} == {"w", "unused"}
    assert tree(WorkingModel(sparse_model()).annotations).parameters == 6


def test_external_sparse_initializers(tmp_path: Path) -> None:
    model = sparse_model()
    model.graph.value_info.append(helper.make_tensor_value_info("b", 1, [2, 2]))
    del model.graph.sparse_initializer[1:]
    data = b""
    for tensor in (model.graph.sparse_initializer[0].values, model.graph.sparse_initializer[0].indices):
        raw = tensor.raw_data
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", "w.bin"), ("offset", str(len(data))), ("length", str(len(raw)))):
            tensor.external_data.add(key=key, value=value)
        data += raw
    (tmp_path / "w.bin").write_bytes(data)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    loaded = WorkingModel.read(tmp_path / "m.onnx")
    Filter(scope=("m",)).apply(loaded)
    write_model(loaded.proto, loaded.weights, tmp_path / "part.onnx")
    (result,) = session(onnx.load(tmp_path / "part.onnx")).run(None, {"a": np.ones((2, 3), np.float32)})
    assert result.tolist() == [[5, 7], [5, 7]]


def test_quantisation_annotations_keep_their_parameters() -> None:
    model = tagged(
        HEAD
        + """ g (float[2] x) => (float[2] y) <float s = {2}, float t = {3}, float u = {4}> {
            a = Neg(x) b = Abs(a) d = Exp(b) y = Relu(d) }""",
        "b",
    )
    for tensor, scale in (("a", "s"), ("b", "t"), ("d", "u")):
        note = model.graph.quantization_annotation.add(tensor_name=tensor)
        note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value=scale)
    part = cut(model)
    assert [note.tensor_name for note in part.graph.quantization_annotation] == ["a", "b"]
    assert [tensor.name for tensor in part.graph.initializer] == ["s", "t"]


def test_maps_at_the_boundary() -> None:
    value = helper.make_tensor_value_info
    map_type = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    nodes = [
        helper.make_node("Identity", ["x"], ["a"]),
        helper.make_node("ZipMap", ["a"], ["z"], domain="ai.onnx.ml", classlabels_int64s=[1, 2]),
    ]
    outputs = [onnx.ValueInfoProto(name="z", type=helper.make_sequence_type_proto(map_type))]
    graph = helper.make_graph(nodes, "g", [value("x", 1, ["N", 2])], outputs)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("ai.onnx.ml", 3)]
    part = cut(tagged(helper.make_model(graph, opset_imports=opsets, ir_version=10), "z"))
    assert part.graph.output[0] == outputs[0]
    assert part.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"


def test_training_information_is_left_out_and_unknown_fields_are_kept() -> None:
    model = tagged(HEAD + " g (float[2] x) => (float[2] y) { a = Neg(x) b = Abs(a) y = Relu(b) }", "b")
    model.training_info.add().initialization.name = "init"
    unknown = b"\xfa\x3f\x03abc"  # field 1023
    node = model.graph.node[1].SerializeToString() + unknown
    model.graph.node[1].ParseFromString(node)
    whole = model.SerializeToString() + unknown
    part = cut(ModelProto.FromString(whole))
    assert not part.training_info
    assert part.graph.node[0].SerializeToString() == node
    assert part.SerializeToString().endswith(unknown)


def test_attributes_of_every_kind_are_kept() -> None:
    model = tagged(HEAD + " g (float[2] x) => (float[2] y) { a = Neg(x) b = own.odd(a) y = Relu(b) }", "b")
    node = model.graph.node[1]
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(np.ones(1, np.float32)), numpy_helper.from_array(np.zeros(1, np.int64)), [3]
    )
    node.attribute.extend(
        [
            helper.make_attribute("sparse", sparse),
            AttributeProto(name="many", type=AttributeProto.SPARSE_TENSORS, sparse_tensors=[sparse]),
            AttributeProto(name="type", type=AttributeProto.TYPE_PROTO, tp=helper.make_tensor_type_proto(1, [2])),
            AttributeProto(name="none", type=AttributeProto.INTS),
            AttributeProto(name="bytes", type=AttributeProto.STRING, s=b"\xff\x00"),
        ]
    )
    model.graph.value_info.append(helper.make_tensor_value_info("b", 1, [2]))
    before = node.SerializeToString()
    Filter(scope=("m",)).apply(WorkingModel(model))
    assert [n.SerializeToString() for n in model.graph.node] == [before]


def test_types_that_onnx_does_not_know_come_from_onnx_runtime() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]> g (float[N, 4] x) => (float[N, 4] y) {
        a = com.microsoft.Gelu(x) b = Neg(a) y = com.microsoft.Gelu(b) }"""
    part = cut(tagged(text, "b"))
    for value in (*part.graph.input, *part.graph.output):
        assert [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim] == ["N", 4]


def test_a_rank_that_nobody_knows_is_left_open() -> None:
    text = (
        HEAD
        + """ g (float[A, B] x, int64[R] s) => (float[2] y) <int64[1] two = {2}> {
        a = Reshape(x, s) b = Neg(a) y = Reshape(b, two) }"""
    )
    part = tagged(text, "b")
    Filter(scope=("m",)).apply(WorkingModel(part))
    assert not part.graph.input[0].type.tensor_type.HasField("shape")
    assert session(part).run(None, {"a": np.ones((1, 2), np.float32)})[0].tolist() == [[-1, -1]]
