"""Putting parts back: what stays, what goes, what is refused, and that models compute what they did."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, numpy_helper

from mxtools.errors import InputError
from mxtools.passes.graft import Graft
from mxtools.pipeline.pipeline import Pipeline
from mxtools.pipeline.working_model import WorkingModel
from mxtools.runtime.sessions import run_model
from mxtools.scopes import keys
from mxtools.scopes.annotations import read_absent
from tests.support.commands import Mx, shell
from tests.support.grafts import model_of, put, versioned


def lines(model: ModelProto) -> list[str]:
    """Return the nodes of the main graph in short: `a = Op(x, w)`."""
    return [f"{', '.join(n.output)} = {n.op_type}({', '.join(n.input)})" for n in model.graph.node]


CHAIN = """g (float[N, 4] x) => (float[N, 4] y) <float[4] w = {1, 2, 3, 4}> {
    a = Neg(x) b = Add(a, w) c = Exp(b) y = Relu(c)
}"""
SIDE = """g (float[N, 4] x) => (float[N, 4] y, float[N, 4] z) {
    a = Neg(x) b = Abs(a) s = Shape(b) c = Exp(b) r = Reshape(x, s) y = Relu(c) z = Neg(r)
}"""
SPLIT = "g (float[4] x) => (float[2] y) { a, b = Split<axis = 0, num_outputs = 2>(x) n = Neg(a) y = Add(n, b) }"

CASES = {
    "unchanged": (
        CHAIN,
        "p (float[N, 4] a) => (float[N, 4] c) <float[4] w = {1, 2, 3, 4}> { b = Add(a, w) c = Exp(b) }",
        ["a = Neg(x)", "b = Add(a, w)", "c = Exp(b)", "y = Relu(c)"],
        {"removed": 0, "added": 0, "kept": 2, "renamed": {}},
    ),
    "replaced": (
        CHAIN,
        "p (float[N, 4] a) => (float[N, 4] c) { d = Sin(a) c = Cos(d) }",
        ["a = Neg(x)", "d = Sin(a)", "c = Cos(d)", "y = Relu(c)"],
        {"removed": 2, "added": 2, "kept": 0, "renamed": {}},
    ),
    "in part": (
        CHAIN,
        "p (float[N, 4] a) => (float[N, 4] c) <float[4] w = {1, 2, 3, 4}> { b = Add(a, w) c = Cos(b) }",
        ["a = Neg(x)", "b = Add(a, w)", "c = Cos(b)", "y = Relu(c)"],
        {"removed": 1, "added": 1, "kept": 1, "renamed": {}},
    ),
    "other weights": (
        CHAIN,
        "p (float[N, 4] a) => (float[N, 4] c) <float[4] w = {1, 2, 3, 5}> { b = Add(a, w) c = Exp(b) }",
        ["a = Neg(x)", "b = Add(a, w)", "c = Exp(b)", "y = Relu(c)"],
        {"removed": 2, "added": 2, "kept": 0, "renamed": {}},
    ),
    "a constant": (
        CHAIN,
        "p (float[N, 4] a) => (float[1, 4] c) <float[1, 4] c = {1, 2, 3, 4}> { }",
        ["a = Neg(x)", "y = Relu(c)"],
        {"removed": 2, "added": 0, "kept": 0, "renamed": {}},
    ),
    "read outside": (
        SIDE,
        "p (float[N, 4] a) => (float[N, 4] c) { b = Sin(a) c = Exp(b) }",
        [
            *("a = Neg(x)", "b = Abs(a)", "s = Shape(b)", "b_1 = Sin(a)"),
            *("c = Exp(b_1)", "r = Reshape(x, s)", "y = Relu(c)", "z = Neg(r)"),
        ],
        {"removed": 1, "added": 2, "kept": 0, "renamed": {"b": "b_1"}},
    ),
    "one of two outputs": (
        SPLIT,
        """p (float[4] x) => (float[2] a) {
            k = Constant<value_ints = [0]>() e = Constant<value_ints = [2]>() a = Slice(x, k, e)
        }""",
        ["k = Constant()", "e = Constant()", "a = Slice(x, k, e)", "a_1, b = Split(x)", "n = Neg(a)", "y = Add(n, b)"],
        {"removed": 0, "added": 3, "kept": 0, "renamed": {}},
    ),
    "in another order": (
        "g (float[2] x) => (float[2] y, float[2] z) { a = Neg(x) y = Abs(a) b = Exp(x) z = Sin(b) }",
        "p (float[2] x, float[2] b) => (float[2] a) { a = Add(x, b) }",
        ["b = Exp(x)", "a = Add(x, b)", "y = Abs(a)", "z = Sin(b)"],
        {"removed": 1, "added": 1, "kept": 0, "renamed": {}},
    ),
    "around another": (
        "g (float[2] x) => (float[2] y) { a = Neg(x) b = Abs(a) y = Exp(b) }",
        "p (float[2] x, float[2] b) => (float[2] a, float[2] y) { a = Sin(x) y = Cos(b) }",
        ["a = Sin(x)", "b = Abs(a)", "y = Cos(b)"],
        {"removed": 2, "added": 2, "kept": 0, "renamed": {}},
    ),
    "captured outside": (
        """g (bool c, float[2] x) => (float[2] y, float[2] z) {
            a = Neg(x) b = Abs(a)
            z = If (c) <
                then_branch = t () => (float[2] p) { p = Exp(a) }, else_branch = e () => (float[2] q) { q = Sin(x) }
            >
            y = Exp(b)
        }""",
        "p (float[2] x) => (float[2] b) { a = Cos(x) b = Abs(a) }",
        ["a = Neg(x)", "a_1 = Cos(x)", "b = Abs(a_1)", "z = If(c)", "y = Exp(b)"],
        {"removed": 1, "added": 2, "kept": 0, "renamed": {"a": "a_1"}},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_graft(tmp_path: Path, case: str) -> None:
    text, part, expected, report = CASES[case]
    model = model_of(text)
    before = {node.output[0]: node.SerializeToString() for node in model.graph.node}
    assert put(tmp_path, model, part) == report
    assert lines(model) == expected
    theirs = {node.output[0] for node in model_of(part).graph.node}
    for node in model.graph.node:
        if node.output[0] in before and node.output[0] not in theirs:
            assert node.SerializeToString() == before[node.output[0]]


def test_weights_that_nothing_reads_are_dropped(tmp_path: Path) -> None:
    model = model_of(CHAIN)
    put(tmp_path, model, CASES["replaced"][1])
    assert not model.graph.initializer
    model = model_of(CHAIN)
    put(tmp_path, model, CASES["other weights"][1])
    assert [numpy_helper.to_array(t).tolist() for t in model.graph.initializer] == [[1, 2, 3, 5]]


def test_equal_weights_are_shared_and_others_renamed(tmp_path: Path) -> None:
    text = """g (float[2] x) => (float[2] y, float[2] z) <float[2] v = {1, 2}, float[2] w = {3, 4}> {
        a = Add(x, v) y = Mul(a, w) b = Sub(x, v) z = Mul(b, w) }"""
    model = model_of(text)
    report = put(
        tmp_path,
        model,
        """p (float[2] x) => (float[2] y) <float[2] v = {1, 2}, float[2] w = {5, 6}> { a = Sub(x, v) y = Div(a, w) }""",
    )
    assert report["renamed"] == {"w": "w_1"}
    assert lines(model) == ["a = Sub(x, v)", "y = Div(a, w_1)", "b = Sub(x, v)", "z = Mul(b, w)"]
    assert [t.name for t in model.graph.initializer] == ["v", "w", "w_1"]


def test_names_of_values_in_bodies_types_and_notes_and_of_nodes(tmp_path: Path) -> None:
    model = model_of("g (bool c, float[2] x) => (float[2] y, float[2] z) { h = Neg(x) y = Abs(x) z = Exp(h) }")
    part = model_of("""p (bool c, float[2] x) => (float[2] y) {
        h = Sin(x)
        y = If (c) <
            then_branch = t () => (float[2] z) { z = Exp(h) }, else_branch = e () => (float[2] q) { q = Cos(x) }
        >
    }""")
    for graph in (model.graph, part.graph):
        for node in graph.node:
            node.name = f"node_{node.output[0]}"
    part.graph.value_info.append(onnx.helper.make_tensor_value_info("h", TensorProto.FLOAT, [2]))
    part.graph.quantization_annotation.add(tensor_name="h")
    report = put(tmp_path, model, part)
    assert report["renamed"] == {"h": "h_1", "z": "z_1"}
    assert lines(model) == ["h = Neg(x)", "h_1 = Sin(x)", "y = If(c)", "z = Exp(h)"]
    assert [i.name for i in model.graph.value_info] == ["h_1"]
    assert [q.tensor_name for q in model.graph.quantization_annotation] == ["h_1"]
    assert [n.name for n in model.graph.node] == ["node_h", "node_h_1", "node_y", "node_z"]
    branch = model.graph.node[2].attribute[0].g
    assert (list(branch.node[0].input), branch.output[0].name) == (["h_1"], "z_1")


PARTS = {
    "an input that was dropped": ("p () => (float[2] c) <float[2] c = {1, 2}> { }", "'x'.*keep all inputs"),
    "an unknown output": ("p (float[2] a) => (float[2] cc) { cc = Neg(a) }", "output 'cc'.*did you mean c"),
    "an unknown input": ("p (float[2] q) => (float[2] c) { c = Neg(q) }", "input 'q'"),
    "an input of the model": ("p (float[2] b) => (float[2] x) { x = Neg(b) }", "'x' of the part is an input"),
    "another type": ("p (float[2] a) => (float16[2] c) { c = Cast<to = 10>(a) }", r"float\[2\].*float16\[2\]"),
    "another input type": ("p (double[2] a) => (float[2] c) { c = Cast<to = 1>(a) }", r"input 'a' is float.*double"),
    "another shape": (
        "p (float[3] a) => (float[2] c) { k = Constant<value_ints = [2]>() c = Reshape(a, k) }",
        "float.3.",
    ),
    "another rank": ("p (float[1, 2] a) => (float[2] c) { c = Squeeze(a) }", r"float\[1,2\]"),
    "a cycle": ("p (float[2] x, float[2] y) => (float[2] a) { a = Add(x, y) }", "depend on itself"),
    "another cycle": ("p (float[2] c, float[2] x) => (float[2] b) { d = Neg(c) b = Add(d, x) }", "depend on itself"),
}


@pytest.mark.parametrize("case", PARTS)
def test_parts_that_do_not_fit(tmp_path: Path, case: str) -> None:
    part, message = PARTS[case]
    model = model_of("g (float[2] x) => (float[2] y) { a = Neg(x) b = Abs(a) c = Exp(b) y = Sin(c) }")
    with pytest.raises(InputError, match=message):
        put(tmp_path, model, part)


def test_a_part_that_is_not_whole(tmp_path: Path) -> None:
    part = model_of("p (float[N, 4] a) => (float[N, 4] c) { b = Neg(a) c = Add(b, x) }")
    onnx.save(part, tmp_path / "part.onnx")
    with pytest.raises(InputError, match="'x'"):
        Graft(str(tmp_path / "part.onnx")).apply(WorkingModel(model_of(CHAIN)))


def test_symbolic_and_unknown_dimensions_fit(tmp_path: Path) -> None:
    for shape in ("[M, 4]", "[3, 4]", "[3, K]", "[N, 4]"):
        put(tmp_path, model_of(CHAIN), f"p (float{shape} a) => (float{shape} c) {{ c = Neg(a) }}")


def tag(model: ModelProto, scopes_: dict[str, str]) -> ModelProto:
    for node in model.graph.node:
        if node.output[0] in scopes_:
            scope = scopes_[node.output[0]]
            keys.replace_props(
                node,
                keys.NODE_KEYS,
                {keys.SCOPE: scope, keys.TAG: f"/Net/{scope.replace('.', '/')}", keys.EVIDENCE: "name"},
            )
    return model


def test_tags(tmp_path: Path) -> None:
    model = tag(model_of(CHAIN), {"a": "first", "b": "m.one", "c": "m.two", "y": "last"})
    keys.replace_props(model, keys.MODEL_KEYS, {keys.ABSENT: json.dumps({"m.three": "folded", "gone": "vacuous"})})
    part = model_of("""p (float[N, 4] a) => (float[N, 4] c) {
        k = Constant<value = bool {1}>()
        d = If (k) <
            then_branch = t () => (float[N, 4] q) { q = Neg(a) }, else_branch = e () => (float[N, 4] r) { r = Abs(a) }
        >
        c = Cos(d)
    }""")
    put(tmp_path, model, tag(part, {"k": "m.one", "d": "m.three"}))
    found = {node.output[0]: keys.props(node) for node in model.graph.node}
    assert {name: props[keys.SCOPE] for name, props in found.items()} == {
        "a": "first",
        "k": "m.one",
        "d": "m.three",
        "c": "m",
        "y": "last",
    }
    assert found["c"][keys.EVIDENCE] == "dataflow"
    assert {keys.props(n.attribute[0].g.node[0])[keys.SCOPE] for n in model.graph.node if n.op_type == "If"} == {"m"}
    assert read_absent(model) == {"gone": "vacuous", "m.two": "merged: m"}


def test_untagged_models_stay_so(tmp_path: Path) -> None:
    model = model_of(CHAIN)
    put(tmp_path, model, CASES["replaced"][1])
    assert not any(node.metadata_props for node in model.graph.node)
    assert not model.metadata_props


def _weighted(text: str, seed: int, size: int = 400) -> ModelProto:
    """Return a model with weights `w` and `v` of more than a kibibyte; `v` is the same for every seed."""
    model = model_of(text)
    for name, of in (("w", seed), ("v", 0)):
        array = np.random.default_rng(of).standard_normal(size).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


@pytest.mark.parametrize("external", ["neither", "model", "part", "both"])
@pytest.mark.parametrize("piped", [False, True])
def test_weights_of_both_files(mx: Mx, tmp_path: Path, external: str, piped: bool) -> None:
    model = _weighted("g (float[400] x) => (float[400] y) { a = Add(x, w) b = Mul(a, v) c = Exp(b) y = Sub(c, w) }", 1)
    part = _weighted("p (float[400] a) => (float[400] c) { b = Mul(a, v) n = Neg(b) c = Div(n, w) }", 2)
    for name, proto in (("model", model), ("part", part)):
        (tmp_path / name).mkdir()
        onnx.save(
            proto,
            tmp_path / name / "m.onnx",
            save_as_external_data=external in (name, "both"),
            location="m.onnx.data",
            size_threshold=0,
        )
    if piped:
        done = shell("mx graft model/m.onnx part/m.onnx > piped.onnx", tmp_path)
        written = tmp_path / "piped.onnx"
    else:
        done = mx("graft", "model/m.onnx", "part/m.onnx", "-o", "out.onnx", cwd=tmp_path)
        written = tmp_path / "out.onnx"
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr.decode() == "mx graft: 1 nodes removed, 2 added, 1 unchanged, 1 values renamed\n"
    found = {t.name: numpy_helper.to_array(t) for t in onnx.load(written).graph.initializer}
    w, v, other = (np.random.default_rng(seed).standard_normal(400).astype(np.float32) for seed in (1, 0, 2))
    assert list(found) == ["w", "v", "w_1"]
    assert np.array_equal(found["w"], w)
    assert np.array_equal(found["v"], v)
    assert np.array_equal(found["w_1"], other)
    outside = [t.name for t in onnx.load(written, load_external_data=False).graph.initializer if t.data_location]
    assert outside == {"neither": [], "model": ["w", "v"], "part": ["w_1"], "both": ["w", "v", "w_1"]}[external]
    if external == "both" and not piped:
        assert (tmp_path / "out.onnx.data").stat().st_size < 3 * 1600 + 128


def test_sparse_weights_and_quantization_parameters_come_along(tmp_path: Path) -> None:
    model = model_of("g (float[4] x) => (float[4] y) { a = Neg(x) b = Abs(a) y = Exp(b) }")
    text = "p (float[4] a) => (float[4] b) <float scale = {2}, float other = {3}> { n = own.Op(a, s) b = Sin(n) }"
    part = versioned(21, text, ', "own" : 1', 10)

    values = onnx.helper.make_tensor("s", TensorProto.FLOAT, [1], [7])
    part.graph.sparse_initializer.append(
        onnx.helper.make_sparse_tensor(values, onnx.helper.make_tensor("i", TensorProto.INT64, [1], [2]), [4])
    )
    note = part.graph.quantization_annotation.add(tensor_name="n")
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="scale")
    put(tmp_path, model, part)
    assert [t.name for t in model.graph.initializer] == ["scale"]
    assert [t.values.name for t in model.graph.sparse_initializer] == ["s"]
    assert model.graph.quantization_annotation[0].quant_parameter_tensor_names[0].value == "scale"
    before = model.SerializeToString()
    assert put(tmp_path, model, part)["added"] == 0
    assert model.SerializeToString() == before


def test_the_model_runs_in_the_same_process(tmp_path: Path) -> None:
    model = _weighted("g (float[400] x) => (float[400] y) { a = Add(x, w) b = Exp(a) y = Sub(b, v) }", 1)
    part = _weighted("p (float[400] a) => (float[400] b) { b = Div(a, w) }", 2)
    onnx.save(part, tmp_path / "part.onnx", save_as_external_data=True, location="data", size_threshold=0)
    working, x = WorkingModel(model), np.ones(400, np.float32)
    Pipeline((Graft(str(tmp_path / "part.onnx")),)).apply(working)
    w, v, other = (np.random.default_rng(seed).standard_normal(400).astype(np.float32) for seed in (1, 0, 2))
    assert np.allclose(run_model(model, working.weights, {"x": x})["y"], (x + w) / other - v, 1e-5)


def test_model_and_part_that_are_exchanged() -> None:
    part = model_of("p (float[N, 4] a) => (float[N, 4] c) <float[4] w = {1, 2, 3, 4}> { b = Add(a, w) c = Exp(b) }")
    with pytest.raises(InputError, match="swap the two files: the model comes first, then the part"):
        Graft(WorkingModel(model_of(CHAIN))).apply(WorkingModel(part))
    last = model_of("p (float[N, 4] lost) => (float[N, 4] y) { y = Exp(lost) }")  # it makes all outputs of the model
    with pytest.raises(InputError, match=r"'lost' of the part is not a tensor .*: keep the names"):
        Graft(WorkingModel(last)).apply(WorkingModel(model_of(CHAIN)))
