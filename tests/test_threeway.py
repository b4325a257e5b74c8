"""Three-way merges of edited graphs: what is not edited stays to the byte, what is edited is what was asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from textwrap import dedent, indent

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from mxtools.files.writing import write_model
from mxtools.passes.surgeon import Surgeon
from mxtools.pipeline.pipeline import Pipeline
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes import keys
from tests.support.surgeon_scripts import CHAIN, SCRIPT, model, scopes

Edit = Callable[..., onnx.ModelProto]


@pytest.fixture
def edit(tmp_path: Path) -> Edit:
    """Run a function, the body of which is given, over a model."""

    def run(model: onnx.ModelProto, body: str) -> onnx.ModelProto:
        script = tmp_path / "edit.py"
        script.write_text(f"{SCRIPT}\ndef edit(graph):\n{indent(dedent(body), '    ')}\n")
        result = onnx.ModelProto()
        result.CopyFrom(model)
        Pipeline((Surgeon(script=f"{script}:edit"),)).apply(WorkingModel(result))
        return result

    return run


BRANCHES = model(
    """g (float[2] x, bool c) => (float[2] y) <float[2] w = {1, 2}> {
        a = Neg(x)
        y = If (c) <
            then_branch = t () => (float[2] p) <float[2] k = {3, 4}> { o = Add(a, w) p = Mul(o, k) },
            else_branch = e () => (float[2] q) { q = Clip(a, "", "") }
        >
    }"""
)
FUNCTION = model(
    """g (float[2] x) => (float[2] y) { a = own.f <k = 2.0> (x) y = own.f <k = 3.0> (a) }
    <domain: "own", opset_import: ["" : 21]> f <k> (i) => (o) {
        v = Constant <value_float: float = @k> ()
        o = Mul(i, v)
    }"""
)


def dropped() -> dict[str, onnx.ModelProto]:
    """Return models that have what graphsurgeon drops or fails on, by what it is."""
    made = {name: onnx.ModelProto() for name in VARIANTS}
    for name, (base, change) in VARIANTS.items():
        made[name].CopyFrom(base)
        change(made[name])
    return made


def _annotated(m: onnx.ModelProto) -> None:
    m.metadata_props.add(key="k", value="v")
    m.graph.metadata_props.add(key="k", value="v")
    m.doc_string = m.graph.doc_string = "said"
    m.producer_name, m.producer_version, m.domain, m.model_version = "p", "1", "d", 7
    m.graph.input[0].doc_string = "said"
    info = m.graph.value_info.add(name="a", doc_string="said")
    info.CopyFrom(helper.make_tensor_value_info("a", 1, ["n"], "said", ["DENOTED"]))
    info.metadata_props.add(key="k", value="v")
    m.graph.value_info.add(name="unknown")
    m.graph.quantization_annotation.add(tensor_name="a").quant_parameter_tensor_names.add(key="SCALE", value="w")
    m.opset_import.add(domain="unused", version=3)
    m.graph.initializer[0].doc_string = "said"
    m.graph.initializer[0].metadata_props.add(key="k", value="v")
    m.training_info.add().algorithm.name = "t"


def _sparse(m: onnx.ModelProto) -> None:
    sparse = m.graph.sparse_initializer.add(dims=[2])
    sparse.values.CopyFrom(numpy_helper.from_array(np.array([2], np.float32), "w"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.array([1]), ""))
    del m.graph.initializer[:]


def _attributes(m: onnx.ModelProto) -> None:
    attributes = m.graph.node[0].attribute
    for number, kind in enumerate((6, 7, 8, 9)):
        attributes.add(name=f"empty{number}", type=kind, doc_string="said")
    attributes.add(name="bytes", type=3, s=b"\xff\xfe")
    attributes.add(name="texts", type=8, strings=[b"\xff", b"ok"])
    attributes.add(name="text", type=3, s=b"plain")
    attributes.add(name="nan", type=1, f=float("nan"))
    attributes.add(name="type", type=13).tp.tensor_type.elem_type = 1
    attributes.add(name="sparse", type=11).sparse_tensor.dims[:] = [2]
    attributes.add(name="bodies", type=10).graphs.add(name="inner")
    attributes.add(name="t", type=4).t.CopyFrom(numpy_helper.from_array(np.ones(3, np.float32), "named"))


def _unused(m: onnx.ModelProto) -> None:
    m.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.int64), "unused"))


def _default(m: onnx.ModelProto) -> None:
    m.graph.input.insert(0, helper.make_tensor_value_info("w", 1, [2]))


def _low_precision(m: onnx.ModelProto) -> None:
    for kind in (TensorProto.BFLOAT16, TensorProto.FLOAT8E5M2, TensorProto.INT4, TensorProto.UINT4, TensorProto.BOOL):
        m.graph.initializer.add(name=f"t{kind}", data_type=kind, dims=[2], raw_data=bytes(4 if kind == 16 else 2))
        m.graph.node.add(op_type="Identity", input=[f"t{kind}"], output=[f"u{kind}"])
    m.graph.initializer.add(name="text", data_type=TensorProto.STRING, dims=[1], string_data=[b"ok"])
    m.graph.node.add(op_type="Identity", input=["text"], output=["utext"])


def _overloads(m: onnx.ModelProto) -> None:
    m.functions.add().CopyFrom(m.functions[0])
    m.functions[1].overload = m.graph.node[1].overload = "other"
    m.functions[1].metadata_props.add(key="k", value="v")
    m.functions[1].node[1].op_type = "Add"
    m.functions[0].value_info.add(name="o")
    m.functions[0].attribute_proto.add(name="z", type=7)


VARIANTS: dict[str, tuple[onnx.ModelProto, Callable[[onnx.ModelProto], None]]] = {
    "metadata": (CHAIN, _annotated),
    "sparse initializer": (CHAIN, _sparse),
    "attributes": (CHAIN, _attributes),
    "unused initializer": (CHAIN, _unused),
    "default input": (CHAIN, _default),
    "low precision": (CHAIN, _low_precision),
    "bodies": (BRANCHES, lambda m: None),
    "overloads": (FUNCTION, _overloads),
}


@pytest.mark.parametrize("body", ["nothing(graph)", "return copied(graph)", "read(graph)"])
@pytest.mark.parametrize("name", VARIANTS)
def test_what_is_not_edited_is_kept_to_the_byte(edit: Edit, name: str, body: str) -> None:
    before = dropped()[name]
    assert edit(before, body) == before
    assert edit(before, body).SerializeToString() == before.SerializeToString()


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "low precision"])
def test_sorting_loses_nothing(edit: Edit, name: str) -> None:
    before = dropped()[name]
    assert edit(before, "sorted_(graph)").SerializeToString() == before.SerializeToString()


def test_an_operator_in_place_of_another_keeps_the_tags_of_all_others(edit: Edit) -> None:
    after = edit(
        CHAIN,
        """
        old = next(node for node in graph.nodes if node.op == "Exp")
        outputs = list(old.outputs)
        old.outputs.clear()
        graph.nodes.append(gs.Node("Tanh", "new", inputs=list(old.inputs), outputs=outputs))
        graph.cleanup().toposort()
        """,
    )
    assert scopes(after) == {"a": "at.a", "b": "at.b", "c": "at.c", "d": ""}
    assert after.graph.node[:3] == CHAIN.graph.node[:3]
    assert after.graph.initializer == CHAIN.graph.initializer


def test_a_changed_node_keeps_its_tag_and_what_graphsurgeon_does_not_hold(edit: Edit) -> None:
    before = dropped()["attributes"]
    node = edit(before, "graph.nodes[0].name, graph.nodes[0].attrs['text'] = 'renamed', 'other'").graph.node[0]
    assert (node.name, node.doc_string) == ("renamed", "said")
    assert node.metadata_props == before.graph.node[0].metadata_props
    kept = [a for a in node.attribute if a.name != "text"]
    assert kept == [a for a in before.graph.node[0].attribute if a.name != "text"]
    node = edit(before, "graph.nodes[0].op = 'Abs'\ngraph.nodes[0].attrs.clear()").graph.node[0]
    assert (node.op_type, len(node.attribute)) == ("Abs", 0)


def test_values_are_changed_where_they_are(edit: Edit) -> None:
    change = "graph.tensors()['w'].values *= 2"
    weight = edit(dropped()["metadata"], change).graph.initializer[0]
    assert numpy_helper.to_array(weight).tolist() == [2, 4]
    assert weight.doc_string == "said"
    sparse = edit(dropped()["sparse initializer"], change).graph
    assert (len(sparse.sparse_initializer), numpy_helper.to_array(sparse.initializer[0]).tolist()) == (0, [0, 4])
    captured = edit(BRANCHES, "graph.nodes[1].attrs['then_branch'].nodes[0].inputs[1].values *= 2")
    assert numpy_helper.to_array(captured.graph.initializer[0]).tolist() == [2, 4]
    assert [n.metadata_props for n in captured.graph.node] == [n.metadata_props for n in BRANCHES.graph.node]


def test_inside_of_bodies_and_functions(edit: Edit) -> None:
    after = edit(
        BRANCHES,
        """
        body = graph.nodes[1].attrs["then_branch"]
        body.nodes[1].op = "Div"
        body.nodes[1].inputs[1] = gs.Constant("new", np.ones(2, np.float32))
        """,
    )
    body = after.graph.node[1].attribute[0].g
    assert [n.op_type for n in body.node] == ["Add", "Div"]
    assert [t.name for t in body.initializer] == ["new"]
    assert after.graph.node[1].attribute[1] == BRANCHES.graph.node[1].attribute[1]
    onnx.checker.check_model(after)
    after = edit(FUNCTION, "graph.functions[0].nodes[1].inputs[1] = gs.Constant('new', np.ones(1, np.float32))")
    assert [n.output[0] for n in after.functions[0].node] == ["new", "v", "o"]
    assert after.functions[0].node[2].metadata_props == FUNCTION.functions[0].node[1].metadata_props
    onnx.checker.check_model(after)


def test_nodes_that_leave_a_body_keep_their_tags(edit: Edit) -> None:
    before = dropped()["bodies"]
    for body in (attribute.g for attribute in before.graph.node[1].attribute):
        for node in body.node:
            node.metadata_props.add(key=keys.SCOPE, value="inner")
    after = edit(
        before,
        """
        graph.nodes[1].inputs[0].to_constant(np.array(True))
        graph.inputs = graph.inputs[:1]
        graph.fold_constants().cleanup().toposort()
        """,
    )
    assert [(n.op_type, keys.props(n)[keys.SCOPE]) for n in after.graph.node] == [
        ("Neg", "at.a"),
        ("Add", "inner"),
        ("Mul", "inner"),
    ]
    onnx.checker.check_model(after)


def test_inputs_outputs_and_operator_sets(edit: Edit) -> None:
    after = edit(
        dropped()["metadata"],
        """
        a = graph.tensors()["a"]
        graph.outputs = [a]
        graph.opset = 22
        graph.nodes.append(gs.Node("Own", inputs=[a], outputs=[gs.Variable("z", np.float32, ("n",))], domain="other"))
        graph.outputs.append(graph.tensors()["z"])
        graph.cleanup()
        """,
    )
    assert [o.name for o in after.graph.output] == ["a", "z"]
    assert [n.output[0] for n in after.graph.node] == ["a", "z"]
    assert not after.graph.quantization_annotation[1:]
    assert {o.domain: o.version for o in after.opset_import} == {"": 22, "own": 1, "unused": 3, "other": 1}
    assert after.graph.output[1].type.tensor_type.shape.dim[0].dim_param == "n"


def large(folder: Path) -> Path:
    """Write a model with two weights of 8 kB, one of them in a file beside it, and one that only a Transpose reads."""
    text = """g (float[40, 50] x) => (float[40, 50] y) { a = Add(x, w) b = Add(a, v) t = Transpose(u) y = Add(b, t) }"""
    made = model(text)
    array = np.arange(2000, dtype=np.float32).reshape(40, 50)
    made.graph.initializer.append(numpy_helper.from_array(array, "w"))
    made.graph.initializer.add(name="v", data_type=1, dims=[40, 50], data_location=TensorProto.EXTERNAL)
    made.graph.initializer[1].external_data.add(key="location", value="v.bin")
    made.graph.initializer.append(numpy_helper.from_array(array.T.copy(), "u"))
    (folder / "v.bin").write_bytes(array.tobytes())
    (folder / "a.onnx").write_bytes(made.SerializeToString())
    return folder / "a.onnx"


@pytest.mark.parametrize(
    ("body", "deferred"),
    [
        ("pass", ["w", "v", "u"]),
        ("read(graph)", ["w", "v", "u"]),
        ("graph.fold_constants().cleanup().toposort()", ["w", "v"]),
        ("graph.tensors()['w'].values *= 1\ngraph.tensors()['v'].values += 0", ["w", "v", "u"]),
        ("graph.tensors()['w'].name = 'renamed'", ["v", "u", "renamed"]),
        (
            "constant = gs.Constant('c', graph.tensors()['w']._values)\n"
            "graph.nodes[0].inputs[1] = gs.Variable('m')\n"
            "graph.nodes.insert(0, gs.Node('Constant', attrs={'value': constant}, outputs=[graph.nodes[0].inputs[1]]))",
            ["v", "u"],
        ),
    ],
    ids=["nothing", "read", "fold", "assign", "rename", "to an attribute"],
)
def test_weights_stay_where_they_are(tmp_path: Path, body: str, deferred: list[str]) -> None:
    loaded = WorkingModel.read(large(tmp_path))
    assert loaded.proto.ByteSize() < 2000
    script = tmp_path / "e.py"
    script.write_text(f"{SCRIPT}\ndef edit(graph):\n{indent(body, '    ')}\n")
    Pipeline((Surgeon(script=f"{script}:edit"),)).apply(loaded)
    outside = [t.name for t in loaded.proto.graph.initializer if t.data_location == TensorProto.EXTERNAL]
    assert outside == deferred
    write_model(loaded.proto, loaded.weights, tmp_path / "b.onnx")
    x = np.ones((40, 50), np.float32)
    results = [onnxruntime.InferenceSession(tmp_path / f"{n}.onnx").run(None, {"x": x})[0] for n in "ab"]
    assert np.array_equal(*results)
