"""Cutting out what is in bodies of If, Loop and Scan, and in functions; the values are computed by hand."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser

from mxtools.cut.filtering import CutRequest, FilterReport, filter_model
from mxtools.errors import AbsentError, CheckError, InputError, MxError, UsageError
from mxtools.graft.put_back import put_back
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes.selection import Selection
from mxtools.traces.values import Values
from tests.support.cuts import HEAD, NESTED, shape, tagged
from tests.support.running import session

X = np.array([-1, 2], np.float32)
H = np.array([0.5, -0.25], np.float32)

BRANCHES = (
    HEAD
    + """ g (bool c, float[N, 2] x) => (float[N, 2] y) <float[2] w = {1, 2}, float[2] unused = {0, 0}> {
        h = Relu(x)
        two = Constant <value = float {2}> ()
        y = If (c) <
            then_branch = t () => (float[N, 2] t2) { t1 = Add(h, w)  t2 = Mul(t1, two) },
            else_branch = e () => (float[N, 2] t2) { e1 = Sub(h, w)  t2 = Tanh(e1) }
        >
    }"""
)
"""Both branches have a `t2`, capture a result and a weight, and the first a constant."""

LOOP = (
    HEAD
    + """ g (int64 n, float[2] x) => (float[2] y, float[M, 2] s) {
        go = Constant <value = bool {1}> ()
        h = Neg(x)
        y, s = Loop (n, go, x) <body = b (int64 i, bool c, float[2] v) => (bool c2, float[2] w, float[2] u) {
            c2 = Identity(c)
            j = Cast <to = 1> (i)
            a = Add(v, h)
            m = Mul(a, j)
            w = Tanh(m)
            u = Exp(w)
        }>
    }"""
)

SCAN = (
    HEAD
    + """ g (float[2] x, float[3, 2] xs) => (float[2] y, float[3, 2] ys) {
        y, ys = Scan (x, xs) <num_scan_inputs = 1, body = b (float[2] s, float[2] e) => (float[2] s2, float[2] o) {
            p = Mul(s, e)
            s2 = Sub(p, x)
            o = Abs(s2)
        }>
    }"""
)


def cut(model: str | ModelProto, *outputs: str, **options: Any) -> tuple[ModelProto, FilterReport]:
    """Cut out the nodes that make some values, or what options say; the part is valid, loads, and was compared."""
    whole = tagged(model, *outputs) if outputs else parser.parse_model(model) if isinstance(model, str) else model
    proto = ModelProto.FromString(whole.SerializeToString())
    selection = Selection(scopes=("m",)) if outputs else Selection()
    given = options.pop("given", None)
    values = Values(given, given.__getitem__) if given else None
    report = filter_model(WorkingModel(proto, values=values), CutRequest(selection, **{"verify": True} | options))
    onnx.checker.check_model(proto, full_check=True)
    return proto, report


def run(part: ModelProto, **feeds: Any) -> list[np.ndarray]:
    return list(session(part).run(None, {name: np.asarray(value) for name, value in feeds.items()}))


def test_a_module_in_a_branch() -> None:
    part, report = cut(BRANCHES, "t1", "t2", given={"c": np.array(True), "x": X[None]}, to_tensors=("t1",))
    assert shape(part) == (["t1"], ["h"], ["t1"], ["w"])
    assert [d["output"] for d in report.check.differences] == ["t1"]
    (result,) = run(part, h=X[None])
    assert np.array_equal(result, [[0, 4]])
    assert [d.dim_param or d.dim_value for d in part.graph.input[0].type.tensor_type.shape.dim] == ["N", 2]


def test_constants_from_outside_come_along() -> None:
    part, _ = cut(BRANCHES.replace("t2) { e1", "e2) { e1").replace("t2 = Tanh", "e2 = Tanh"), "t2", verify=False)
    assert shape(part) == (["two", "t2"], ["t1"], ["t2"], [])
    assert np.array_equal(run(part, t1=X[None])[0], 2 * X[None])


def test_a_range_in_a_branch() -> None:
    """The same name in the other branch is another tensor; a tensor that only one of them has tells which is meant."""
    part, _ = cut(BRANCHES, from_tensors=("t1",), to_tensors=("t2",), given={"c": np.array(True), "x": X[None]})
    assert shape(part) == (["two", "t2"], ["t1"], ["t2"], [])
    part, _ = cut(BRANCHES, from_tensors=("e1",), to_tensors=("t2",), given={"c": np.array(False), "x": X[None]})
    assert shape(part) == (["t2"], ["e1"], ["t2"], [])
    part, _ = cut(BRANCHES, from_tensors=("x",), to_tensors=("e1",), given={"c": np.array(False), "x": X[None]})
    assert shape(part) == (["h", "e1"], ["x"], ["e1"], ["w"])
    assert np.array_equal(run(part, x=X[None])[0], [[-1, 0]])


def test_a_range_that_does_not_say_which_branch() -> None:
    with pytest.raises(UsageError, match="'t2' is in the then_branch of If '' and in the else_branch of If ''"):
        cut(BRANCHES, to_tensors=("t2",))
    with pytest.raises(UsageError, match="'t1' is in the then_branch of If '' and 'e1' is in the else_branch of If ''"):
        cut(BRANCHES, from_tensors=("t1",), to_tensors=("e1",))
    with pytest.raises(UsageError, match="there is no tensor 'tt1': did you mean t1"):
        cut(BRANCHES, to_tensors=("tt1",))
    part, _ = cut(BRANCHES, "t1", to_tensors=("t2",), from_tensors=("h",), verify=False)
    assert shape(part)[0] == ["t1"]


def test_a_module_in_both_branches_is_refused() -> None:
    with pytest.raises(AbsentError, match="m is in the then_branch of If '' and in the else_branch of If ''"):
        cut(BRANCHES, "t1", "e1")
    part, _ = cut(BRANCHES, "t1", "e1", to_tensors=("e1",), verify=False)
    assert shape(part)[0] == ["e1"]


def test_a_branch_that_does_not_run_proves_nothing() -> None:
    with pytest.raises(CheckError, match="nothing was compared, because the else_branch of If '' does not run"):
        cut(BRANCHES, "e1", given={"c": np.array(True), "x": X[None]})


def test_a_module_in_a_loop() -> None:
    part, report = cut(LOOP, "a", "m", "w", given={"n": np.array(3), "x": X})
    assert shape(part) == (["a", "m", "w"], ["v", "h", "j"], ["w"], [])
    assert [d["max_abs"] for d in report.check.differences] == [0]
    (result,) = run(part, v=H, j=np.float32(2), h=X)
    assert np.allclose(result, np.tanh((H + X) * 2))


def test_the_number_of_an_iteration_is_an_input() -> None:
    part, _ = cut(LOOP, "j", "m", given={"n": np.array(2), "x": X})
    assert shape(part) == (["j", "m"], ["i", "a"], ["m"], [])
    assert part.graph.input[0].type.tensor_type.elem_type == TensorProto.INT64
    assert np.array_equal(run(part, i=np.array(3), a=X)[0], 3 * X)


def test_a_loop_without_iterations_proves_nothing() -> None:
    with pytest.raises(CheckError, match="nothing was compared, because the body of Loop '' does not run"):
        cut(LOOP, "a", given={"n": np.array(0), "x": X})


def test_a_module_in_a_scan() -> None:
    part, _ = cut(SCAN, "p", "s2", given={"x": X, "xs": np.stack([X, H, X])})
    assert shape(part) == (["p", "s2"], ["x", "s", "e"], ["s2"], [])
    assert np.array_equal(run(part, x=X, s=H, e=X)[0], H * X - X)


def test_a_whole_body() -> None:
    part, _ = cut(SCAN, "p", "s2", "o", given={"x": X, "xs": np.stack([X, H, X])})
    assert shape(part) == (["p", "s2", "o"], ["x", "s", "e"], ["s2", "o"], [])


def test_a_body_in_a_body() -> None:
    feeds = {"c": np.array(True), "d": np.array(True), "x": X}
    part, _ = cut(HEAD + NESTED, "qq", "q", given=feeds)
    assert shape(part) == (["qq", "q"], ["a", "l"], ["q"], ["w"])
    assert np.array_equal(run(part, a=X, l=H)[0], np.add(X, [1, 2]) * H)
    part, _ = cut(HEAD + NESTED, "l", "p", given=feeds)  # the holder of the inner bodies comes with them
    assert shape(part)[:3] == (["k", "l", "p"], ["d", "x", "a"], ["p"])


def test_a_module_that_begins_outside_of_the_body_and_ends_in_it() -> None:
    part, _ = cut(LOOP, "h", "a", given={"n": np.array(2), "x": X})
    assert shape(part) == (["h", "a"], ["x", "v"], ["a"], [])
    assert np.array_equal(run(part, x=X, v=H)[0], H - X)


@pytest.mark.parametrize(
    ("text", "outputs"),
    [
        (HEAD + NESTED, ("qq", "z")),
        (LOOP.replace("y, s = Loop", "other = Sqrt(h)  y, s = Loop"), ("a", "h")),
        (LOOP.replace("(n, go, x)", "(n, go, z)").replace("h = Neg(x)", "h = Neg(x)  z = Abs(x)"), ("a", "z")),
    ],
    ids=["behind the body", "read by others", "read by the holder"],
)
def test_a_module_that_is_elsewhere_too_is_refused(text: str, outputs: tuple[str, ...]) -> None:
    with pytest.raises(AbsentError, match=r"m is partly inside the .* and partly outside"):
        cut(text, *outputs)


def test_names_that_a_body_uses_again() -> None:
    """The outer `t` makes what the body captures, and the body has a `t` of its own; so has the other branch."""
    text = (
        HEAD
        + """ g (bool c, float[2] x) => (float[2] y) {
            t = Abs(x)
            k = Sqrt(t)
            y = If (c) <
                then_branch = one () => (float[2] r) { t = Neg(x)  s = Add(t, k)  r = Relu(s) },
                else_branch = two () => (float[2] t) { t = Exp(k) }
            >
        }"""
    )
    part, _ = cut(text, to_tensors=("s",), verify=False)  # ONNX Runtime refuses the whole model for its names
    assert shape(part) == (["t_1", "k", "t", "s"], ["x"], ["s"], [])
    assert np.allclose(run(part, x=X)[0], np.sqrt(np.abs(X)) - X)
    part, _ = cut(text, "s", verify=False)
    assert shape(part) == (["s"], ["t", "k"], ["s"], [])


def test_a_branch_that_ran_in_an_earlier_iteration() -> None:
    text = (
        HEAD
        + """ g (int64 n, float[2] x) => (float[2] y) <int64 zero = {0}> {
            go = Constant <value = bool {1}> ()
            y = Loop (n, go, x) <body = b (int64 i, bool c, float[2] v) => (bool c2, float[2] w) {
                c2 = Identity(c)
                first = Equal(i, zero)
                u = Mul(v, v)
                w = If (first) <
                    then_branch = one () => (float[2] p) { q = Sub(u, v)  p = Exp(q) },
                    else_branch = two () => (float[2] r) { r = Neg(v) }
                >
            }>
        }"""
    )
    part, report = cut(text, "q", given={"n": np.array(3), "x": X})
    assert shape(part) == (["q"], ["v", "u"], ["q"], [])
    assert [d["max_abs"] for d in report.check.differences] == [0]


def test_the_check_finds_what_differs() -> None:
    text = LOOP.replace("a = Add(v, h)", "r = RandomNormalLike(v)  a = Add(r, h)")
    with pytest.raises(CheckError, match="output 'w' differs from the whole model's"):
        cut(text, "r", "a", "m", "w", given={"n": np.array(3), "x": X})


def test_what_a_loop_carries_may_change_its_shape() -> None:
    text = (
        HEAD
        + """ g (int64 n, float[K, 2] x) => (float[L, 2] y) {
            go = Constant <value = bool {1}> ()
            y = Loop (n, go, x) <body = b (int64 i, bool c, float[] v) => (bool c2, float[] w) {
                c2 = Identity(c)
                e = Exp(v)
                w = Concat <axis = 0> (e, x)
            }>
        }"""
    )
    whole = tagged(text, "e", "w")
    part = ModelProto.FromString(whole.SerializeToString())
    given = {"n": np.array(3), "x": X[None]}
    request = CutRequest(Selection(scopes=("m",)), verify=True)
    filter_model(WorkingModel(part, values=Values(given, given.__getitem__)), request)
    assert shape(part)[:3] == (["e", "w"], ["x", "v"], ["w"])
    assert not part.graph.input[1].type.tensor_type.HasField("shape")
    assert run(part, x=X[None], v=np.ones((4, 2), np.float32))[0].shape == (5, 2)


def test_a_type_that_nobody_knows() -> None:
    body = helper.make_graph(
        [helper.make_node("Identity", ["z"], ["m"]), helper.make_node("Own", ["m"], ["r"], domain="own")],
        "b",
        [onnx.ValueInfoProto(name="z")],
        [onnx.ValueInfoProto(name="r")],
    )
    model = parser.parse_model(HEAD + " g (float[2] x) => (float[2] y) { y = own.Each(x) }")
    model.graph.node[0].attribute.append(helper.make_attribute("body", body))
    with pytest.raises(InputError, match="the type of tensor 'z' is not in the file and cannot be inferred"):
        cut(tagged(model), "m", verify=False)


def test_a_body_of_an_unknown_operator_is_cut_but_not_compared() -> None:
    body = helper.make_graph(
        [helper.make_node("Exp", ["z"], ["m"]), helper.make_node("Abs", ["m"], ["r"])],
        "b",
        [helper.make_tensor_value_info("z", 1, [2])],
        [helper.make_tensor_value_info("r", 1, [2])],
    )
    model = parser.parse_model(HEAD + " g (float[2] x) => (float[2] y) { y = own.Each(x) }")
    model.graph.node[0].attribute.append(helper.make_attribute("body", body))
    part, _ = cut(model, "m", verify=False)
    assert shape(part)[:3] == (["m"], ["z"], ["m"])
    with pytest.raises(CheckError, match="nothing was compared, because values in the body of Each '' cannot be read"):
        cut(model, "m", given={"x": X})


FUNCTION = """<ir_version: 10, opset_import: ["" : 21, "own" : 1]> g (float[2] x, float[2] q) => (float[2] y) {
    a = own.f <alpha = 0.5> (x, x, q)
    y = Abs(a)
}
<domain: "own", opset_import: ["" : 21]> f <alpha> (p, pp, r) => (z) {
    q = LeakyRelu <alpha : float = @alpha> (p)
    k = Add(q, r)
    z = Mul(k, pp)
}"""
"""The function has a `q` of its own, which is not the caller's."""


def test_a_module_in_a_function() -> None:
    part, _ = cut(FUNCTION, "q", "k", given={"x": X, "q": H})
    assert shape(part)[1] == ["x", "q"]
    assert not part.functions
    assert np.array_equal(run(part, x=X, q=H)[0], np.where(X < 0, X * 0.5, X) + H)
    part, _ = cut(FUNCTION, from_tensors=("k",), given={"x": X, "q": H})
    assert shape(part)[1] == ["k", "x"] or shape(part)[1] == ["x", "k"]


def test_a_module_in_a_function_is_checked_on_what_it_is_given_in_a_run_of_the_whole() -> None:
    _, report = cut(FUNCTION, "k", given={"x": X, "q": H})
    assert report.check
    given = next(value for name, value in report.check.given.items() if name not in ("x", "q"))
    assert np.array_equal(given, np.where(X < 0, X * 0.5, X))


def test_a_module_in_a_function_that_a_function_calls() -> None:
    text = FUNCTION.replace("Mul(k, pp)", "own.g(k, pp)").replace('["" : 21]> f', '["" : 21, "own" : 1]> f')
    text += '<domain: "own", opset_import: ["" : 21]> g (p, r) => (m) { n = Neg(p)  m = Mul(n, r) }'
    part, _ = cut(text, "m", given={"x": X, "q": H})
    assert [node.op_type for node in part.graph.node] == ["Mul"]
    assert np.array_equal(run(part, n=H, x=X)[0], H * X)


def test_a_function_that_is_called_twice_is_refused() -> None:
    with pytest.raises(
        AbsentError, match=r"m is in the function 'f', which is called several .*: select the module that calls it"
    ):
        cut(FUNCTION.replace("y = Abs(a)", "b = own.f <alpha = 0.1> (a, x, q)  y = Abs(b)"), "k")


def test_a_function_of_other_versions_is_refused() -> None:
    model = parser.parse_model(FUNCTION)
    model.functions[0].opset_import[0].version = 20
    with pytest.raises(AbsentError, match="the function 'f' uses other operator versions than the model"):
        cut(model, "k")


def test_weights_of_a_body_and_unsorted_nodes() -> None:
    model = parser.parse_model(LOOP)
    body = model.graph.node[2].attribute[0].g
    values = numpy_helper.from_array(np.array([3], np.float32), "sp")
    indices = numpy_helper.from_array(np.array([1], np.int64), "ind")
    body.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [2]))
    body.initializer.append(numpy_helper.from_array(H, "own"))
    body.node[2].input[1] = "own"
    body.node[3].input[1] = "sp"
    order = [5, 0, 2, 4, 3, 1]
    nodes = [body.node[i] for i in order]
    del body.node[:]
    body.node.extend(nodes)
    proto = ModelProto.FromString(tagged(model, "a", "m").SerializeToString())
    filter_model(WorkingModel(proto), CutRequest(Selection(scopes=("m",))))
    assert shape(proto)[1:] == (["v"], ["m"], ["own", "sp"])


def test_a_part_of_a_body_does_not_go_back() -> None:
    part, _ = cut(LOOP, "a", "m", verify=False)
    model = WorkingModel(parser.parse_model(LOOP))
    with pytest.raises(InputError, match=r"input 'v' of the part is in a body .*: cut out the module that contains"):
        put_back(model, WorkingModel(part))
    assert model.proto == parser.parse_model(LOOP)


@pytest.mark.parametrize("text", [LOOP, SCAN], ids=["loop", "scan"])
def test_a_body_with_more_or_fewer_inputs_than_its_holder_gives(text: str) -> None:
    for count in (1, 4):
        model = tagged(text, "w", "s2", "o", "u", "m", "p")
        body = next(a.g for node in model.graph.node for a in node.attribute if a.HasField("g"))
        del body.input[count:]
        body.input.extend(onnx.ValueInfoProto(name=f"more{n}") for n in range(count))
        with suppress(MxError):  # any other exception would be a fault of ours
            filter_model(WorkingModel(model), CutRequest(Selection(scopes=("m",))))
