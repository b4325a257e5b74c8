"""Models with a fault in one place can be worked on in others, or it is said what to do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.helper import make_node as node
from onnx.helper import make_tensor_value_info as info

import mxtools
from mxtools.errors import InputError, UsageError
from mxtools.graph.functions import model_nodes
from mxtools.graph.order import sort_nodes
from mxtools.graph.shapes import inferred_infos
from mxtools.pipeline.pipeline import Pipeline
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes import keys
from tests.support.commands import Mx
from tests.support.cuts import HEAD, tagged
from tests.support.small_traces import trace_of

FLOATS = TensorProto.FLOAT


def model_of(*nodes: onnx.NodeProto, domains: tuple[str, ...] = ()) -> ModelProto:
    inputs, outputs = ([info(name, FLOATS, [1, 4])] for name in "xy")
    graph = helper.make_graph(list(nodes), "g", inputs, outputs)
    imports = [helper.make_opsetid("", 21), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def around(odd: onnx.NodeProto, domains: tuple[str, ...] = ()) -> ModelProto:
    """Return a model with an odd node, from `a` to `b`, between plain ones before, beside and after it."""
    return model_of(
        node("Relu", ["x"], ["a"], name="/pre/Relu"),
        odd,
        node("Softmax", ["b"], ["y"], name="/head/Softmax"),
        node("Tanh", ["a"], ["c"], name="/beside/Tanh"),
        node("Abs", ["c"], ["d"], name="/last/Abs"),
        domains=domains,
    )


ODD = {
    "of a domain that is not imported": node("Foo", ["a"], ["b"], name="/odd/Foo", domain="acme"),
    "without an input that its operator has": node("Concat", [], ["b"], name="/odd/Concat", axis=0),
    "without an attribute": node("Cast", ["a"], ["b"], name="/odd/Cast"),
    "with too many inputs": node("Relu", ["a", "a"], ["b"], name="/odd/Relu"),
    "that ONNX does not have": node("Relux", ["a"], ["b"], name="/odd/Relux"),
}


@pytest.mark.parametrize("odd", ODD)
def test_one_bad_node_stops_inference_for_no_other(odd: str, tmp_path: Path, mx: Mx) -> None:
    onnx.save(around(ODD[odd]), tmp_path / "m.onnx")
    infos = inferred_infos(onnx.load(tmp_path / "m.onnx"))
    assert [dim.dim_value for dim in infos["d"].type.tensor_type.shape.dim] == [1, 4]
    assert mx("tag", "m.onnx", "-o", "t.onnx", cwd=tmp_path).returncode == 0
    for scope in ("pre", "beside"):
        assert mx("filter", "t.onnx", "--scope", scope, "-o", "p.onnx", cwd=tmp_path).returncode == 0
        onnx.checker.check_model(onnx.load(tmp_path / "p.onnx"), full_check=True)


def test_several_bad_nodes_stop_inference_for_no_other() -> None:
    model = around(ODD["without an input that its operator has"])
    for place in (5, 3, 0):
        model.graph.node.insert(place, node("Concat", [], [f"none{place}"], axis=0))
    assert [dim.dim_value for dim in inferred_infos(model)["d"].type.tensor_type.shape.dim] == [1, 4]


@pytest.mark.parametrize("domains", [(), ("acme",)])
def test_what_cannot_be_inferred_can_be_declared(domains: tuple[str, ...], tmp_path: Path, mx: Mx) -> None:
    onnx.save(around(ODD["of a domain that is not imported"], domains), tmp_path / "m.onnx")
    assert mx("tag", "m.onnx", "-o", "t.onnx", cwd=tmp_path).returncode == 0
    cut = ("filter", "t.onnx", "--scope", "head", "-o", "p.onnx")
    refused = mx(*cut, cwd=tmp_path)
    assert refused.returncode == 3
    assert b"the type of tensor 'b' is not in the file and cannot be inferred: give --type b=float32" in refused.stderr
    assert mx(*cut, "--type", "b=float32", "--shape", "b=1,tokens,?", cwd=tmp_path).returncode == 0
    (given,) = onnx.load(tmp_path / "p.onnx").graph.input
    assert helper.printable_value_info(given) == "%b[FLOAT, 1xtokensx?]"
    assert mx(*cut, "--type", "b=float32", cwd=tmp_path).returncode == 0
    array = np.ones((2, 4), np.float32)
    assert mxtools.load(tmp_path / "p.onnx").run({"b": array})["y"].shape == (2, 4)
    split = ("split", "t.onnx", "--each", "head", "-d", "parts")
    assert mx(*split, cwd=tmp_path).returncode == 3
    assert mx(*split, "--type", "b=float32", cwd=tmp_path).returncode == 0


def test_declarations_that_are_wrong_are_refused() -> None:
    model = mxtools.from_proto(around(ODD["of a domain that is not imported"]))
    model.tag()
    wrong = {
        "'a' is of type float": {"types": {"a": "int64"}},
        "'c' is of type float": {"shapes": {"c": (2, 4)}},
        "there is no tensor 'bb'": {"types": {"bb": "int64"}},
        "'flaot32', given for 'b', is not an element type: did you mean float32": {"types": {"b": "flaot32"}},
    }
    for message, declared in wrong.items():
        with pytest.raises(UsageError, match=message):
            model.filter("pre", **declared)  # type: ignore[arg-type]  # of several types
    text = """<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]> g (float[2] x) => (float[2] y) {
        h = com.microsoft.Gelu(x)
        y = Neg(h)
    }"""
    told = mxtools.from_proto(onnx.parser.parse_model(text))  # only ONNX Runtime knows the operator
    with pytest.raises(UsageError, match=r"'h' is of type float\[2\]"):
        told.filter(from_tensor="h", types={"h": "int64"})
    part = model.filter("head", types={"b": "bfloat16"}, shapes={"b": ()})
    assert helper.printable_value_info(part.proto.graph.input[0]) == "%b[BFLOAT16, scalar]"
    assert [p.name for p in model.split("head", types={"b": "float32"})][-1] == "head"


@pytest.mark.parametrize("text", ["--shape=b", "--shape=b=1,,2", "--shape==1", "--type=b", "--type=b="])
def test_declarations_that_cannot_be_read_are_refused(text: str, tmp_path: Path, mx: Mx) -> None:
    mxtools.from_proto(around(ODD["that ONNX does not have"])).save(tmp_path / "m.onnx")
    done = mx("filter", "m.onnx", "--to-tensor", "a", text, cwd=tmp_path)
    assert (done.returncode, b"is not NAME=" in done.stderr) == (2, True)


@pytest.mark.parametrize("size", ["-1", "99999999999999999999", "9" * 5000])
def test_declared_sizes_that_no_dimension_has_are_refused(size: str, tmp_path: Path, mx: Mx) -> None:
    mxtools.from_proto(around(ODD["that ONNX does not have"])).save(tmp_path / "m.onnx")
    done = mx("filter", "m.onnx", "--to-tensor", "a", f"--shape=b=1,{size}", cwd=tmp_path)
    assert (done.returncode, b"no dimension of 'b' has the size" in done.stderr) == (2, True)


def sparse() -> ModelProto:
    model = model_of(
        node("MatMul", ["x", "enc.w"], ["h"], name="/enc/MatMul"), node("Relu", ["h"], ["y"], name="/head/Relu")
    )
    values, places = numpy_helper.from_array(np.ones(2, np.float32), "enc.w"), np.array([1, 6])
    tensor = helper.make_sparse_tensor(values, numpy_helper.from_array(places, "places"), [4, 4])
    model.graph.sparse_initializer.append(tensor)
    return model


def test_sparse_initializers_are_valid_and_have_types(tmp_path: Path, mx: Mx) -> None:
    onnx.save(sparse(), tmp_path / "m.onnx")
    assert mx("tag", "m.onnx", "-o", "t.onnx", cwd=tmp_path).returncode == 0
    validated = mx("validate", "t.onnx", cwd=tmp_path)
    assert (validated.returncode, validated.stdout) == (0, b"")
    for scope in ("enc", "head"):
        filtered = mx("filter", "t.onnx", "--scope", scope, "--verify", "-o", "p.onnx", cwd=tmp_path)
        assert filtered.returncode == 0
    (given,) = onnx.load(tmp_path / "p.onnx").graph.input
    assert helper.printable_value_info(given) == "%h[FLOAT, 1x4]"


def test_a_wrong_type_beside_a_sparse_initializer_is_found(tmp_path: Path, mx: Mx) -> None:
    model = sparse()
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 5
    onnx.save(model, tmp_path / "m.onnx")
    assert b"error: types: Relu" in mx("validate", "m.onnx", cwd=tmp_path).stdout


def unsorted() -> ModelProto:
    """Return a model whose nodes are not in order: in the graph, in a body, and for what a body captures."""
    inner = [node("Relu", ["t"], ["u"], name="/mid/Relu"), node("Abs", ["a"], ["t"], name="/mid/Abs")]
    bodies = {
        "then_branch": helper.make_graph(inner, "then", [], [info("u", FLOATS, None)]),
        "else_branch": helper.make_graph([node("Abs", ["late"], ["v"])], "else", [], [info("v", FLOATS, None)]),
    }
    model = model_of(
        node("Tanh", ["a"], ["d"], name="/head/Tanh"),
        node("If", ["c"], ["q"], name="/mid/If", **bodies),
        node("Relu", ["x"], ["a"], name="/pre/Relu"),
        node("Neg", ["a"], ["late"], name="/pre/Neg"),
        node("Add", ["q", "d"], ["y"], name="/head/Add"),
    )
    model.graph.input.append(info("c", TensorProto.BOOL, []))
    return model


ORDER = ["/pre/Relu", "/head/Tanh", "/pre/Neg", "/mid/If", "/head/Add"]


def test_nodes_that_are_not_in_order_are_worked_on(tmp_path: Path, mx: Mx) -> None:
    """As the float16 converter of ONNX Runtime leaves them."""
    onnx.save(unsorted(), tmp_path / "m.onnx")
    assert mx("tag", "m.onnx", "-o", "t.onnx", cwd=tmp_path).returncode == 0
    model = onnx.load(tmp_path / "t.onnx")
    assert [n.name for n in model.graph.node] == [n.name for n in unsorted().graph.node], "tagging moves nothing"
    scopes = {n.output[0]: keys.props(n)[keys.SCOPE] for n in model_nodes(model)}
    assert scopes == {"d": "head", "y": "head", "a": "pre", "late": "pre"} | dict.fromkeys(("q", "u", "t", "v"), "mid")
    for scope in ("pre", "mid", "head"):
        assert mx("filter", "t.onnx", "--scope", scope, "-o", "p.onnx", cwd=tmp_path).returncode == 0
    assert mx("filter", "t.onnx", "--to-tensor", "d", "-o", "p.onnx", cwd=tmp_path).returncode == 0
    onnx.checker.check_model(onnx.load(tmp_path / "p.onnx"), full_check=True)
    assert [n.name for n in onnx.load(tmp_path / "p.onnx").graph.node] == ["/pre/Relu", "/head/Tanh"]


def test_parts_of_nodes_that_are_not_in_order_are_right(tmp_path: Path, mx: Mx) -> None:
    model = model_of(
        node("Tanh", ["a"], ["d"], name="/head/Tanh"),
        node("Relu", ["x"], ["a"], name="/pre/Relu"),
        node("Add", ["late", "d"], ["y"], name="/last/Add"),
        node("Neg", ["a"], ["late"], name="/pre/Neg"),
    )
    onnx.save(model, tmp_path / "m.onnx")
    assert mx("tag", "m.onnx", "-o", "t.onnx", cwd=tmp_path).returncode == 0
    for scope in ("pre", "head", "last"):
        assert mx("filter", "t.onnx", "--scope", scope, "--verify", "-o", "p.onnx", cwd=tmp_path).returncode == 0
    assert mx("split", "t.onnx", "--depth", "1", "--verify", "-d", "parts", cwd=tmp_path).returncode == 0


def test_nodes_that_are_not_in_order_are_put_in_order(tmp_path: Path, mx: Mx) -> None:
    onnx.save(unsorted(), tmp_path / "m.onnx")
    assert mx("tag", "m.onnx", "-o", "t.onnx", cwd=tmp_path).returncode == 0
    found = mx("validate", "t.onnx", cwd=tmp_path)
    assert (found.returncode, b"error: sorted: Tanh '/head/Tanh'" in found.stdout) == (1, True)
    assert mx("validate", "t.onnx", "--repair", "-o", "s.onnx", cwd=tmp_path).returncode == 0
    model = onnx.load(tmp_path / "s.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [n.name for n in model.graph.node] == ORDER


@pytest.mark.parametrize("place", ["captured", "body"])
def test_an_order_that_only_bodies_break_is_seen(place: str) -> None:
    model = unsorted()
    nodes = list(model.graph.node)
    order = (2, 0, 1, 3, 4) if place == "captured" else (2, 0, 3, 1, 4)
    del model.graph.node[:]
    model.graph.node.extend(nodes[i] for i in order)
    if place == "captured":
        then = next(a.g for a in model.graph.node[2].attribute if a.name == "then_branch")
        inner = list(then.node)[::-1]
        del then.node[:]
        then.node.extend(inner)
    loaded = mxtools.from_proto(model)
    loaded.tag()
    assert {finding.rule for finding in loaded.validate()} == {"sorted"}
    loaded.repair()
    assert loaded.validate() == []
    onnx.checker.check_model(loaded.to_proto(), full_check=True)


def test_what_reads_its_own_result_has_no_order(tmp_path: Path, mx: Mx) -> None:
    model = model_of(node("Add", ["x", "y"], ["a"], name="Add"), node("Relu", ["a"], ["y"], name="Relu"))
    onnx.save(model, tmp_path / "m.onnx")
    done = mx("validate", "m.onnx", "--repair", "-o", "r.onnx", cwd=tmp_path)
    assert (done.returncode, b"it reads a value that is computed from its own result" in done.stdout) == (1, True)
    refused = mx("tag", "m.onnx", "-o", "t.onnx", cwd=tmp_path)
    assert (refused.returncode, b"Add 'Add' reads a value that is computed from its own result" in refused.stderr) == (
        3,
        True,
    )
    with pytest.raises(InputError, match="reads a value that is computed from its own result"):
        mxtools.load(tmp_path / "m.onnx").filter(to_tensor="y")


@pytest.mark.parametrize("is_now", [True, False])
def test_a_circle_is_found_before_values_are_followed_back(is_now: bool) -> None:
    """They were followed for ever, from the model or from the one before the tool."""
    chain = "g (float[2] x) => (float[2] y) { a = Neg(x) y = Relu(a) }"
    circle = "g (float[2] x) => (float[2] y) { a = Identity(b) b = Identity(a) y = Identity(b) }"
    model, previous = (tagged(HEAD + text, "a", "y") for text in ((circle, chain) if is_now else (chain, circle)))
    working = WorkingModel(model)
    working.previous = WorkingModel(previous)
    with pytest.raises(InputError, match="reads a value that is computed from its own result"):
        Pipeline.parse("untag,project-previous,resolve-auxiliary").apply(working)


def test_a_node_without_results_is_no_other_form_of_a_weight() -> None:
    model = model_of(
        node("Mul", ["x", "one.weight"], ["y"], name="Mul"), node("Identity", ["one.weight"], [""], name="Identity")
    )
    model.graph.initializer.append(numpy_helper.from_array(np.ones(4, np.float32), "one.weight"))
    sidecar = trace_of(". Net x:1x4 -> y:1x4\none One x:1x4 -> y:1x4", {"one.weight": [4]})
    working = WorkingModel(model, sidecar=sidecar)
    Pipeline.parse("untag,project-parameters").apply(working)
    assert [keys.props(each)[keys.SCOPE] for each in model.graph.node] == ["one", "one"]


def test_a_clamp_without_results_does_no_work_of_a_node_before_it() -> None:
    tanh, weight = node("Tanh", ["x"], ["y"], name="Tanh"), numpy_helper.from_array(np.ones(4, np.float32), "w")
    before = model_of(node("Mul", ["x", "w"], ["m"], name="Mul"), node("Relu", ["m"], [""], name="Relu"), tanh)
    after = model_of(node("Odd", ["x", "w"], ["q"], name="Odd", domain="odd"), tanh, domains=("odd",))
    for model in (before, after):
        model.graph.initializer.append(weight)
    working = WorkingModel(after, previous=WorkingModel(tagged(before, "m", "y")))
    Pipeline.parse("untag,project-previous").apply(working)
    assert keys.props(after.graph.node[0])[keys.SCOPE] == "m"


def test_what_is_in_order_stays_as_it_is() -> None:
    model = unsorted()
    sort_nodes(model)
    before = model.SerializeToString()
    sort_nodes(model)
    assert model.SerializeToString() == before


@pytest.mark.parametrize(("declared", "passed_on"), [("2, 3, n", None), ("2, 5", [2, 0]), ("2, n", [2, 0])])
def test_a_declared_shape_that_inference_contradicts_is_not_passed_on(
    declared: str, passed_on: list[int] | None, tmp_path: Path, mx: Mx
) -> None:
    """ONNX Runtime runs such a file, and would refuse an input of the wrong shape."""
    text = f"""<ir_version: 10, opset_import: ["" : 21]> g (float[2, 3] x) => (float[{declared}] h, float[2, 3] y) {{
        h = Neg(x)
        y = Abs(h)
    }}"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    done = mx("filter", "m.onnx", "--from-tensor", "h", "-o", "p.onnx", "--verify", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    type_ = onnx.load(tmp_path / "p.onnx").graph.input[0].type.tensor_type
    assert ([dim.dim_value for dim in type_.shape.dim] if type_.HasField("shape") else None) == passed_on


def test_a_field_that_an_attribute_does_not_use_does_not_matter(tmp_path: Path, mx: Mx) -> None:
    text = '<ir_version: 10, opset_import: ["" : 21]> g (float[2] x) => (float[2] y) { y = Softmax <axis = 0> (x) }'
    model = onnx.parser.parse_model(text)
    model.graph.node[0].attribute[0].t.SetInParent()
    onnx.save(model, tmp_path / "m.onnx")
    for line in ("tag m.onnx -o t.onnx", "run m.onnx -p carry -o o.onnx", "filter t.onnx --scope . -o p.onnx"):
        done = mx(*line.split(), cwd=tmp_path)
        assert done.returncode == 0, done.stderr


def test_initializers_of_an_old_file_that_are_no_inputs(tmp_path: Path, mx: Mx) -> None:
    """ONNX Runtime finds them if a node of the main graph reads them, which the part need not have."""
    text = """<ir_version: 3, opset_import: ["" : 13]> g (float[2] x, bool c) => (float[2] y) <float[2] w = {1, 2}> {
        h = Add(x, w)
        y = If (c) <then_branch = t () => (float[2] p) { p = Mul(h, w) },
                    else_branch = e () => (float[2] q) { q = Neg(h) }>
    }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    done = mx("filter", "m.onnx", "--from-tensor", "h", "-o", "p.onnx", "--verify", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
