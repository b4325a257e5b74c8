"""Modules as functions: real models fold to the same results and unfold to the same file; what is left, and why."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, parser

from mxtools.errors import AbsentError, InputError, UsageError
from mxtools.files.limits import LimitError
from mxtools.functions.folding import FoldReport
from mxtools.functions.unfolding import UnfoldReport
from mxtools.passes.fold import Fold
from mxtools.passes.unfold import Unfold
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes import keys
from tests.support import running
from tests.support.commands import Mx
from tests.support.shared_models import Build
from tests.support.small_graphs import HEAD, tagged

MODELS = ("bert", "llama", "resnet", "repeated")
FOLDS = (
    Fold(repeated=True),
    Fold(repeated=True, nested=True),
    Fold(depth=1),
    Fold(depth=2),
    Fold(each=(".",), nested=True),
)
TWO = (
    HEAD
    + """ g (float[2] x) => (float[2] y) <float[2] v = {1, 2}, float[2] w = {3, 4}> {
        a = Mul(x, v)
        b = Relu(a)
        c = Neg(b)
        d = Mul(c, w)
        y = Relu(d)
    }"""
)
"""Two equal modules, `one` and `two`, with a node between them."""
SCOPES = {"a": "one", "b": "one", "d": "two", "y": "two"}


def two(text: str = TWO, classes: str = "/Net/Block") -> ModelProto:
    model = tagged(text, SCOPES)
    for node in model.graph.node:
        scope = keys.props(node)[keys.SCOPE]
        keys.set_prop(node, keys.TAG, "/Net" if scope == "." else f"{classes}.{scope}")
    return model


def folded(model: ModelProto, step: Fold) -> tuple[ModelProto, FoldReport]:
    copy = WorkingModel(ModelProto.FromString(model.SerializeToString()))
    report = step.apply(copy)
    onnx.checker.check_model(copy.proto, full_check=True)
    return copy.proto, report


def unfolded(model: ModelProto, step: Unfold | None = None) -> tuple[ModelProto, UnfoldReport]:
    copy = WorkingModel(ModelProto.FromString(model.SerializeToString()))
    report = (step or Unfold()).apply(copy)
    onnx.checker.check_model(copy.proto, full_check=True)
    return copy.proto, report


@pytest.mark.model
@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
@pytest.mark.parametrize("name", MODELS)
def test_real_models(built: Build, name: str, exporter: str) -> None:
    file = built(name, exporter) / "tagged.onnx"
    model = onnx.load(file)
    inputs = WorkingModel.read(file).inputs()
    expected = running.outputs(file, inputs)
    for step in FOLDS:
        result, report = folded(model, step)
        assert not report.left
        assert bool(report.functions) == any(node.domain == "mxtools" for node in result.graph.node)
        found = running.outputs(result, inputs)
        assert {k: v.tobytes() for k, v in found.items()} == {k: v.tobytes() for k, v in expected.items()}, step
        assert unfolded(result)[0] == model, step


@pytest.mark.model
@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
@pytest.mark.parametrize(("name", "layer"), [("bert", "BertLayer"), ("llama", "LlamaDecoderLayer")])
def test_equal_layers_share_a_function(built: Build, name: str, layer: str, exporter: str) -> None:
    """Also where the exporter stored equal weights once, or computed constants of all layers in the first."""
    model = onnx.load(built(name, exporter) / "tagged.onnx")
    result, report = folded(model, Fold(repeated=True))
    function = next(f for f in report.functions if f.class_name == layer)
    assert len(function.scopes) == 2
    doc = next(f.doc_string for f in result.functions if f.name == layer)
    assert doc == f"{layer}: {', '.join(function.scopes)}"
    calls = [node for node in result.graph.node if node.op_type == layer]
    assert [keys.props(node)[keys.SCOPE] for node in calls] == list(function.scopes)


def test_what_differs_is_given_to_the_function() -> None:
    model = two()
    model.graph.node[1].CopyFrom(helper.make_node("LeakyRelu", ["a"], ["b"], alpha=0.5))
    model.graph.node[4].CopyFrom(helper.make_node("LeakyRelu", ["d"], ["y"], alpha=0.25))
    for node, scope in ((model.graph.node[1], "one"), (model.graph.node[4], "two")):
        for key, value in ((keys.SCOPE, scope), (keys.TAG, f"/Net/Block.{scope}"), (keys.EVIDENCE, "name")):
            keys.set_prop(node, key, value)
    result, report = folded(model, Fold(repeated=True))
    assert report.functions[0].attributes == ("alpha",)
    assert [node.input[1] for node in result.graph.node if node.domain] == ["v", "w"]
    assert [node.attribute[0].f for node in result.graph.node if node.domain] == [0.5, 0.25]
    assert unfolded(result)[0] == model


@pytest.mark.parametrize(
    ("change", "count"),
    [
        (lambda model: None, 1),
        (lambda model: setattr(model.graph.node[4], "op_type", "Abs"), 2),
        (lambda model: model.graph.node[3].input.__setitem__(1, "c"), 2),
    ],
    ids=["equal", "another operator", "the same value twice"],
)
def test_only_equal_modules_share(change: object, count: int) -> None:
    model = two()
    change(model)  # type: ignore[operator]
    result, report = folded(model, Fold(class_=("Block",)))
    assert len(report.functions) == len(result.functions) == count
    assert unfolded(result)[0] == model


def test_modules_of_different_classes_share_nothing() -> None:
    model = two()
    for node in model.graph.node[3:]:
        keys.set_prop(node, keys.TAG, "/Net/Other")
    assert [f.name for f in folded(model, Fold(depth=1))[1].functions] == ["Block", "Other"]


OPTIONAL = (
    HEAD
    + """ g (float[4] x, float low, bool c) => (float[2] y, float[2] z) <int64[2] split = {2, 2}> {
        a = Clip(x, none, low)
        p, q = Split <axis = 0>(a, split)
        y, r = If (c) <then_branch = t () => (float[2] e, float[2] f) { e = Add(p, q) f = Identity(q) },
                       else_branch = s () => (float[2] g1, float[2] h) { g1 = Sub(p, q) h = Identity(p) }>
        z = Sum(p, q, r, p)
    }"""
)
"""An omitted input, a variadic one, bodies that capture, and several outputs; in one module `m`."""


def test_omitted_and_variadic_inputs_several_outputs_and_bodies() -> None:
    model = tagged(OPTIONAL, dict.fromkeys(("a", "p", "y", "z"), "m"))
    model.graph.node[0].input[1] = ""
    result, report = folded(model, Fold(depth=1))
    assert (report.functions[0].inputs, report.functions[0].outputs) == (4, 2)
    assert unfolded(result)[0] == model
    for condition in (True, False):
        feeds = {"x": np.array([1, -2, 3, 4], "f"), "low": np.array(2, "f"), "c": np.array(condition)}
        expected, found = running.outputs(model, feeds), running.outputs(result, feeds)
        assert {k: v.tobytes() for k, v in found.items()} == {k: v.tobytes() for k, v in expected.items()}


INT4 = (
    HEAD
    + """ g (float[2, 2] x) => (float[2, 2] y) <float s = {0.5}> {
        d = DequantizeLinear(w, s)
        m = MatMul(x, d)
        y = Relu(m)
    }"""
)


def test_int4_weights_are_given_to_one_function_but_not_passed_on() -> None:
    model = tagged(INT4, {"d": "a.b", "m": "a.b", "y": "a"})
    for node, tag in zip(model.graph.node, ("/Net/A/B", "/Net/A/B", "/Net/A"), strict=True):
        keys.set_prop(node, keys.TAG, tag)
    model.graph.initializer.append(helper.make_tensor("w", TensorProto.INT4, [2, 2], [1, -2, 3, 4]))
    result, report = folded(model, Fold(depth=1))
    running.session(result)
    assert unfolded(result)[0] == model
    result, report = folded(model, Fold(depth=1, nested=True))
    running.session(result)
    assert report.left == {"a": "it gives 'w' to another function, and ONNX Runtime passes no int4[2,2] on"}


def test_custom_operators_are_imported() -> None:
    model = two(TWO.replace('["" : 21]', '["" : 21, "com.microsoft" : 1]').replace("Relu(", "com.microsoft.Gelu("))
    model.graph.value_info.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "bcd")
    result, _ = folded(model, Fold(repeated=True))
    assert {entry.domain for entry in result.functions[0].opset_import} == {"", "com.microsoft"}
    running.session(result)
    assert unfolded(result)[0] == model


def test_order_is_restored_where_the_rest_had_to_move() -> None:
    """`s` reads the module's first result and stands before `t`, which the module reads."""
    text = """ g (float[2] x) => (float[2] y, float[2] s) {
        a = Neg(x)
        s = Abs(a)
        t = Exp(x)
        y = Add(a, t)
    }"""
    model = tagged(HEAD + text, {"a": "m", "y": "m"})
    result, _ = folded(model, Fold(depth=1))
    assert [node.op_type for node in result.graph.node] == ["Exp", "m", "Abs"]
    assert unfolded(result)[0] == model


def test_types_of_values_inside_come_back() -> None:
    model = two()
    for name, size in (("d", 2), ("c", 2), ("a", "N")):
        model.graph.value_info.append(helper.make_tensor_value_info(name, 1, [size]))
    result, _ = folded(model, Fold(repeated=True))
    assert [info.name for info in result.graph.value_info] == ["c"]
    assert not result.functions[0].value_info, "the two calls say different shapes"
    assert unfolded(result)[0] == model


def test_selected_calls_are_unfolded_alone() -> None:
    model = two()
    result, _ = folded(model, Fold(repeated=True))
    once, report = unfolded(result, Unfold(each=("two",)))
    assert (report.calls, report.functions) == (1, [])
    assert [node.op_type for node in once.graph.node] == ["Block", "Neg", "Mul", "Relu"]
    assert unfolded(result, Unfold(function=("Block",)))[0] == model
    with pytest.raises(UsageError, match="the model has no function 'Blok': did you mean Block"):
        unfolded(result, Unfold(function=("Blok",)))


def test_inside_of_functions_that_stay() -> None:
    model = two()
    for node in model.graph.node[:2]:
        keys.set_prop(node, keys.SCOPE, "one.in")
        keys.set_prop(node, keys.TAG, "/Net/Block.one/In")
    first, _ = folded(model, Fold(each=("one", "one.in")))
    assert {f.name for f in first.functions} == {"In", "Block"}
    outer, report = unfolded(first, Unfold(function=("In",)))
    assert report.functions == ["In"]
    assert [node.op_type for node in outer.functions[0].node] == ["Mul", "Relu"]


def test_a_function_that_a_tool_changed_is_what_is_unfolded() -> None:
    result, _ = folded(two(), Fold(repeated=True))
    result.functions[0].node.insert(1, helper.make_node("Abs", ["a"], ["new"]))
    result.functions[0].node[2].input[0] = "new"
    model, _ = unfolded(result)
    assert [node.op_type for node in model.graph.node] == ["Mul", "Abs", "Relu", "Neg", "Mul", "Abs", "Relu"]
    scopes = [keys.props(node).get(keys.SCOPE) for node in model.graph.node]
    assert scopes == ["one", None, "one", ".", "two", None, "two"]
    assert len({name for node in model.graph.node for name in node.output}) == 7


def test_functions_of_other_versions_are_left() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21, "own" : 1]>
    g (float[2] x) => (float[2] y) { a = own.f(x) y = own.h(a) }
    <domain: "own", opset_import: ["" : 18]> f (p) => (q) { q = Neg(p) }
    <domain: "own", opset_import: ["" : 21]> h (p) => (q) { q = Abs(p) }"""
    model, report = unfolded(parser.parse_model(text))
    assert [node.op_type for node in model.graph.node] == ["f", "Abs"]
    assert report.left == {"f": "the function 'f' uses other operator versions than the model"}


def test_a_function_of_another_tool_whose_nodes_have_names_of_ours() -> None:
    """ONNX Runtime takes no two nodes of one name."""
    model = two(TWO.replace('["" : 21]', '["" : 21, "own" : 1]').replace("Neg(", "own.f("))
    model.functions.append(
        helper.make_function("own", "f", ["p"], ["q"], [helper.make_node("Neg", ["p"], ["q"], name="name")], [])
    )
    model.functions[0].opset_import.add(domain="", version=21)
    model.graph.node[0].name = "name"
    found, _ = unfolded(folded(model, Fold(repeated=True))[0])
    assert sorted(node.name for node in found.graph.node if node.name) == ["name", "name_1"]
    running.session(found)


def test_a_domain_that_is_imported_twice() -> None:
    model = two()
    model.opset_import.add(domain="ai.onnx", version=1)
    with pytest.raises(InputError, match="the model imports ONNX's operators 2 times"):
        Fold(repeated=True).apply(WorkingModel(model))


@pytest.mark.parametrize(
    "damage", ['{"level":', "{}", '{"level":1,"count":1,"places":[0],"names":3,"texts":3}', "eNo=", "\ud83d", "[1]"]
)
def test_a_damaged_record_is_refused(damage: str) -> None:
    result, _ = folded(two(), Fold(repeated=True))
    keys.set_prop(
        next(n for n in result.graph.node if n.domain), keys.FOLDED, damage.encode("utf-8", "replace").decode()
    )
    with pytest.raises(InputError, match="cannot be read: remove this entry"):
        unfolded(result)


@pytest.mark.parametrize(
    "places", [[[0, 1], [0, 1]], [[-5, 1], [3, 1]], [[7, 1], [99999999999, 1]], [[-1, 1], [1, 1]], [[0, 9]]]
)
def test_a_record_of_another_graph_is_not_trusted(places: list[list[int]]) -> None:
    model = two()
    result, _ = folded(model, Fold(repeated=True))
    call = next(n for n in result.graph.node if n.domain)
    record = json.loads(keys.props(call)[keys.FOLDED])
    keys.set_prop(call, keys.FOLDED, json.dumps(record | {"places": places}))
    found, _ = unfolded(result)
    assert sorted(n.SerializeToString() for n in found.graph.node) == sorted(
        n.SerializeToString() for n in model.graph.node
    )


def test_a_record_cannot_ask_for_much_memory() -> None:
    result, _ = folded(two(), Fold(repeated=True))
    call = next(n for n in result.graph.node if n.domain)
    record = json.loads(keys.props(call)[keys.FOLDED])
    keys.set_prop(call, keys.FOLDED, json.dumps(record | {"places": [[0, 10**12]]}))
    with pytest.raises(LimitError, match="what a call stands for would be larger than the limit of 1,000,000 nodes"):
        unfolded(result)


SHAPES = (
    HEAD
    + """ g (float[A, 2] x) => (float[B, 2] y, int64[2] n) <float[2] v = {1, 2}, float[2] w = {3, 4}> {
        s = Shape(x)
        n = Neg(s)
        a = Mul(x, v)
        b = Reshape(a, s)
        t = Shape(b)
        d = Mul(b, w)
        y = Reshape(d, t)
    }"""
)
"""Two modules that reshape to the shape of what they are given; the first is given that shape too."""
BLOCKS = {"a": "one", "b": "one", "t": "two", "d": "two", "y": "two"}


def shared_shape(text: str = SHAPES) -> ModelProto:
    model = tagged(text, BLOCKS)
    for node in model.graph.node:
        scope = keys.props(node)[keys.SCOPE]
        keys.set_prop(node, keys.TAG, "/Net" if scope == "." else f"/Net/Block.{scope}")
    return model


def test_a_shape_that_the_graph_computes_once_keeps_no_module_from_sharing() -> None:
    model = shared_shape()
    result, report = folded(model, Fold(repeated=True))
    assert [function.scopes for function in report.functions] == [("one", "two")]
    assert [node.op_type for node in result.graph.node] == ["Shape", "Neg", "Block", "Block"]
    feeds = {"x": np.array([[1, -2], [3, 4]], "f")}
    assert str(running.outputs(result, feeds)) == str(running.outputs(model, feeds))
    assert unfolded(result)[0] == model
    whole, _ = folded(model, Fold(each=(".",), nested=True))
    assert unfolded(whole)[0] == model


def test_a_shape_that_is_not_that_of_an_input_is_given() -> None:
    model = shared_shape(
        SHAPES.replace("float[A, 2] x)", "float[A, 2] x, float[C, 2] z)").replace("Shape(x)", "Shape(z)")
    )
    assert folded(model, Fold(repeated=True))[0] == model


@pytest.mark.parametrize("change", ["another operator", "another input", "gone"])
def test_a_shape_that_a_tool_changed_is_computed_in_the_module(change: str) -> None:
    model = shared_shape()
    result, _ = folded(model, Fold(repeated=True))
    if change == "another operator":
        result.graph.node[0].op_type = "Size"
    elif change == "another input":
        result.graph.node[0].input[0] = "w"
    else:
        del result.graph.node[:2]
        del result.graph.output[1:]
    feeds = {"x": np.array([[1, -2], [3, 4]], "f")}
    expected = running.outputs(result, feeds)
    back = WorkingModel(result)
    Unfold().apply(back)
    assert str(running.outputs(back.proto, feeds)) == str(expected)
    assert sum(node.op_type == "Shape" for node in back.proto.graph.node) == 2 + (change == "another input")


def test_names_in_a_function_are_those_in_the_module() -> None:
    model = two()
    for node in model.graph.node:
        scope = keys.props(node)[keys.SCOPE]
        node.name = f"/{scope}/{node.op_type}" if scope != "." else ""
    for old, new in (("a", "/one/Mul_output_0"), ("d", "/two/Mul_output_0")):
        for node in model.graph.node:
            for field in (node.input, node.output):
                field[:] = [new if name == old else name for name in field]
    result, _ = folded(model, Fold(repeated=True))
    function = result.functions[0]
    assert list(function.input) == ["input", "v"]
    assert [(node.name, *node.input, *node.output) for node in function.node] == [
        ("/Mul", "input", "v", "Mul"),
        ("/Relu", "Mul", "b"),
    ]
    assert unfolded(result)[0] == model
    function.node.insert(1, helper.make_node("Mul", ["Mul", "Mul"], ["Mul_1"], name="/new/Mul"))
    function.node[2].input[0] = "Mul_1"
    changed, _ = unfolded(result)
    feeds = {"x": np.array([1, -2], "f")}
    assert str(running.outputs(changed, feeds)) == str(running.outputs(result, feeds))
    assert "/two/new/Mul_output_0" in {name for node in changed.graph.node for name in node.output}


def test_nothing_can_be_a_function() -> None:
    model = tagged(TWO, {"a": "one", "y": "one"})
    with pytest.raises(AbsentError, match="one cannot be a function: it reads 'd', which is computed outside of it"):
        folded(model, Fold(each=("one",)))
    with pytest.raises(UsageError, match="nothing is selected"):
        folded(model, Fold())
    assert folded(model, Fold(repeated=True))[0] == model


@pytest.mark.model
def test_modules_of_a_folded_model_are_seen_as_if_it_were_not_folded(built: Build, mx: Mx, tmp_path: Path) -> None:
    whole, small, part = built("bert") / "tagged.onnx", tmp_path / "folded.onnx", tmp_path / "part.onnx"
    assert mx("fold", whole, "--repeated", "-o", small).returncode == 0
    trees = [mx("tree", file, "--json").stdout for file in (whole, small)]
    assert trees[0] == trees[1]
    done = mx("compare", whole, small, "--json")
    assert (done.returncode, json.loads(done.stdout)["differ"]) == (0, False)
    inner = ("--scope", "encoder.layer.1.attention")
    assert mx("filter", whole, *inner, "-o", part).returncode == 0
    done = mx("filter", small, *inner)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout == part.read_bytes()


@pytest.mark.model
def test_commands(built: Build, mx: Mx, tmp_path: Path) -> None:
    source = built("bert") / "tagged.onnx"
    done = mx("fold", source, "--repeated", "--verify", "-o", tmp_path / "f.onnx")
    assert done.returncode == 0
    assert b"mx fold: BertLayer: 2 calls of " in done.stderr
    done = mx("unfold", tmp_path / "f.onnx", "-o", tmp_path / "u.onnx", "--json")
    assert json.loads(done.stdout)["functions"] == ["BertLayer"]
    assert (tmp_path / "u.onnx").read_bytes() == source.read_bytes()
    assert mx("validate", tmp_path / "f.onnx").returncode == 0


@pytest.mark.parametrize(("field", "value"), [("domain", "other"), ("version", 0)])
def test_a_module_with_operators_that_the_model_does_not_import_is_left(field: str, value: object) -> None:
    """ONNX Runtime runs such a graph, but refuses such a function."""
    model = two()
    setattr(model.opset_import[0], field, value)
    with pytest.raises(AbsentError, match="one cannot be a function: the model does not import the domain '' of its"):
        Fold(each=("*",)).apply(WorkingModel(model))


SIDE_BY_SIDE = (
    HEAD
    + """ g (bool c, float[2] x) => (float[2] y) {
        a = If (c) <
            then_branch = t () => (float[2] r) { r = Neg(x) },
            else_branch = e () => (float[2] r) { r = Abs(x) }
        >
        b = Relu(a)
        d = If (c) <
            then_branch = t () => (float[2] r) { r = Neg(b) },
            else_branch = e () => (float[2] r) { r = Abs(b) }
        >
        y = Relu(d)
    }"""
)
"""Two modules as in `TWO`, with bodies in which values are called the same."""


def test_bodies_side_by_side_keep_their_names() -> None:
    model = two(SIDE_BY_SIDE)
    result, report = folded(model, Fold(repeated=True))
    assert len(report.functions) == 1
    assert unfolded(result)[0] == model
    assert unfolded(folded(model, Fold(each=("two",)))[0])[0] == model


def test_a_name_that_a_tool_gave_to_another_value_is_not_given_to_one_in_a_body() -> None:
    model = two(SIDE_BY_SIDE)
    result, _ = folded(model, Fold(repeated=True))
    result.graph.node.add(op_type="Exp", input=["y"], output=["r"])
    result.graph.output.add(name="r").type.CopyFrom(result.graph.output[0].type)
    found, _ = unfolded(result)
    assert [node.attribute[0].g.output[0].name for node in found.graph.node if node.op_type == "If"] == ["r_1", "r_2"]


def test_an_overload_is_not_called_in_a_function() -> None:
    """There ONNX Runtime calls the function without an overload."""
    text = TWO.replace('["" : 21]', '["" : 21, "own" : 1]').replace("b = Relu(a)", "b = own.Act:soft(a)")
    text += '\n<domain: "own", overload: "soft", opset_import: ["" : 21]> Act (x) => (y) { y = Abs(x) }'
    _, report = folded(two(text), Fold(each=("*",)))
    assert report.left == {"one": "it calls an overload of Act, which ONNX Runtime ignores in functions"}
    assert [function.scopes for function in report.functions] == [("two",)]


def test_a_function_is_not_called_like_an_operator() -> None:
    """ONNX Runtime takes a node for an Add by its name, whatever its domain, and fails where it has one input."""
    model = tagged(HEAD + " g (float[2] x) => (float[2] y) { a = Neg(x)\n y = Abs(a) }", {"a": "one", "y": "one"})
    for node in model.graph.node:
        keys.set_prop(node, keys.TAG, "/Net/Add")
    result, report = folded(model, Fold(each=("one",)))
    assert [(function.name, function.class_name) for function in report.functions] == [("Add_1", "Add")]
    running.session(result)
    assert unfolded(result)[0] == model


def test_nodes_without_names_beside_nodes_with_a_path() -> None:
    model = two()
    for node in model.graph.node:
        if node.op_type == "Mul":
            node.name = f"/{keys.props(node)[keys.SCOPE]}/Mul"
    result, report = folded(model, Fold(repeated=True))
    assert [function.scopes for function in report.functions] == [("one", "two")]
    assert result.functions[0].node[0].name == "/Mul"
    assert unfolded(result)[0] == model
