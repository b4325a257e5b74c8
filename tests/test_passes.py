"""What each pass does, on graphs small enough to see it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from onnx import numpy_helper, parser

from mxtools.errors import CheckError, InputError
from mxtools.pipeline.pipeline import Pipeline
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes import keys
from mxtools.scopes.annotations import read_absent
from mxtools.traces.values import Values
from tests.support.passes_on_text import annotations, run, tagged
from tests.support.small_graphs import HEAD
from tests.support.small_traces import trace_of, values_of

CHAIN = f"{HEAD} g (float[2, 4] x) => (float[2, 4] d) {{ a = Neg(x) b = Abs(a) c = Relu(b) d = Exp(c) }}"
TWO = trace_of(
    """
    .      Net    x:2x4 -> d:2x4
    one    Block  x:2x4 -> b:2x4
    one.n  Neg    x:2x4 -> a:2x4
    two    Block  b:2x4 -> d:2x4
    """
)


def test_project_metadata() -> None:
    said = {
        "a": ["", "one", "one.n", "neg"],
        "b": ["", "one", "abs"],
        "c": ["", "nowhere", "relu"],
        "d": ["", "two", "exp"],
    }
    assert run("project-metadata", CHAIN, TWO, metadata=said) == {
        "a": ("one.n", "metadata"),
        "b": ("one", "metadata"),
        "c": ("", ""),
        "d": ("two", "metadata"),
    }


def test_project_metadata_refuses_another_model() -> None:
    said = {"a": ["", "x", "f"], "b": ["", "y", "f"], "c": ["", "one", "f"]}
    with pytest.raises(InputError, match="another model"):
        run("project-metadata", CHAIN, TWO, metadata=said)


def test_project_names() -> None:
    names = {"a": "/one/n/Neg", "b": "/one/Abs", "c": "Relu_3", "d": "/two/Exp_1"}
    found = run("project-names", CHAIN, TWO, names)
    assert [scope for scope, _ in found.values()] == ["one.n", "one", "", "two"]


def test_project_names_without_a_trace() -> None:
    names = {"a": "/layer/layer.0/Neg", "b": "/layer/layer.0/attn/Abs", "c": "/Relu", "d": "Exp"}
    found = run("project-names", CHAIN, None, names)
    assert [scope for scope, _ in found.values()] == ["layer.0", "layer.0.attn", ".", ""]


WEIGHTED = f"""{HEAD} g (float[2, 4] x) => (float[2, 4] b)
    <float[4] one__w = {{1, 2, 3, 4}}, float[4] k = {{5, 6, 7, 8}}> {{ a = Mul(x, one__w) b = Add(a, k) }}"""


def test_project_parameters() -> None:
    sidecar = trace_of(".  Net x:2x4 -> b:2x4\none L x:2x4 -> a:2x4", {"one.w": [4]})
    assert run("project-parameters", WEIGHTED, sidecar) == {"a": ("one", "parameter"), "b": ("", "")}


def test_project_parameters_refuses_another_model() -> None:
    sidecar = trace_of(".  Net x:2x4 -> b:2x4\none L x:2x4 -> a:2x4", {"one.w": [5]})
    with pytest.raises(InputError, match="another model"):
        run("project-parameters", WEIGHTED, sidecar)


def test_resolve_auxiliary_takes_the_common_ancestor_of_the_readers() -> None:
    text = f"""{HEAD} g (float[2, 4] x) => (float[2, 4] d) {{
        k = Constant <value = float {{2}}> ()
        a = Mul(x, k)
        b = Mul(a, k)
        s = Shape(b)
        r = Cast <to = 1> (s)
        d = Neg(b)
    }}"""
    sidecar = trace_of(".  Net x:2x4 -> d:2x4\nm M x:2x4 -> b:2x4\nm.p P x:2x4 -> a:2x4\nm.q Q a:2x4 -> b:2x4")
    found = run("project-names,resolve-auxiliary", text, sidecar, {"a": "/m/p/Mul", "b": "/m/q/Mul"})
    assert found["k"] == ("m", "dataflow")
    assert found["s"] == found["r"] == ("m.q", "dataflow")
    assert found["d"] == (".", "name")


def test_resolve_auxiliary_in_bodies_and_functions() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21, "own" : 1]>
        g (float[2, 4] x, bool c) => (float[2, 4] d) {
            a = own.f(x)
            d = If (c) <
                then_branch = t () => (float[2, 4] p) { p = Neg(a) },
                else_branch = e () => (float[2, 4] q) { q = Abs(a) }
            >
        }
        <domain: "own", opset_import: ["" : 21]> f (i) => (o) { o = Exp(i) }"""
    model = tagged("project-names,resolve-auxiliary", text, TWO, {"a": "/one/f", "d": "/two/If"})
    assert annotations(model)["o"] == ("one", "dataflow")
    inner = [keys.props(n)[keys.SCOPE] for a in model.graph.node[1].attribute for n in a.g.node]
    assert inner == ["two", "two"]


def test_what_nothing_is_known_of_is_said() -> None:
    model = tagged("resolve-auxiliary,record-absent", f"{HEAD} g (float[2] x) => (float[2] x) {{ a = Neg(x) }}", None)
    assert annotations(model)["a"] == (".", "root")
    with pytest.raises(CheckError, match="there is no evidence for 1 nodes"):
        tagged(
            "resolve-auxiliary,record-absent{strict=true}",
            f"{HEAD} g (float[2] x) => (float[2] x) {{ a = Neg(x) }}",
            None,
        )


SHARED = f"""{HEAD} g (float[2, 4] x, float[2, 3] y) => (float[2, 4] d) {{
    m = Neg(y)
    r = ReduceSum <keepdims = 1> (m)
    a = Mul(x, r)
    d = Mul(a, r)
}}"""


def test_hoist_shared_moves_what_was_not_returned() -> None:
    sidecar = trace_of(".  Net x:2x4 y:2x3 -> d:2x4\none L x:2x4 y:2x3 -> a:2x4\ntwo L a:2x4 y:2x3 -> d:2x4")
    names = {"m": "/one/Neg", "r": "/one/ReduceSum", "a": "/one/Mul", "d": "/two/Mul"}
    found = run("project-names,hoist-shared", SHARED, sidecar, names)
    assert found["r"] == (".", "dataflow")
    assert found["m"] == (".", "dataflow")
    assert found["a"] == ("one", "name")


def test_hoist_shared_leaves_a_constant_that_may_be_what_was_returned() -> None:
    text = f"""{HEAD} g (float[1, 3] x) => (float[1, 3] d) {{
        k = Constant <value = int64[3] {{1, 1, 1}}> ()
        z = NonZero(k)
        q = Cast <to = 1> (z)
        d = Add(x, q)
    }}"""
    names = {"z": "/one/NonZero", "q": "/one/Cast", "d": "/two/Add"}
    sidecar = trace_of(".  Net x:1x3 -> d:1x3\none L x:1x3 -> q:1x3\ntwo L q:1x3 -> d:1x3")
    assert run("project-names,resolve-auxiliary,hoist-shared", text, sidecar, names)["q"] == ("one", "name")
    sidecar = trace_of(".  Net x:1x3 -> d:1x3\none L x:1x3 -> q:3x1\ntwo L q:1x3 -> d:1x3")
    assert run("project-names,resolve-auxiliary,hoist-shared", text, sidecar, names)["q"] == ("two", "dataflow")


def test_hoist_shared_reads_a_merged_node_as_all_its_modules() -> None:
    sidecar = trace_of(
        """
        .   Net  x:2x4 -> d:2x4
        se  SE   x:2x4 -> b:2x4
        cv  Conv b:2x4 -> c:2x4
        bn  BN   c:2x4 -> d:2x4
        """
    )
    text = f"{HEAD} g (float[2, 4] x) => (float[2, 4] d) {{ a = Neg(x) b = Abs(a) d = Exp(b) }}"
    model = tagged("project-names", text, sidecar, {"a": "/se/a", "b": "/se/b", "d": "/bn/d"})
    model.graph.node[2].metadata_props.add(key=keys.MERGED, value='["cv", "bn"]')
    Pipeline.parse("hoist-shared").apply(WorkingModel(model, sidecar=sidecar))
    assert annotations(model)["b"] == ("se", "name")


GIVEN = f"""{HEAD} g (float[1, 5, 4] x) => (float[1, 1, 4] d) <int64[2] sizes = {{4, 1}}> {{
    a = Neg(x)
    rest, first = Split <axis = 1> (a, sizes)
    d = Exp(first)
}}"""


def test_move_arguments_out_leaves_to_the_caller_what_it_gave() -> None:
    sidecar = trace_of(
        """
        .       Net   x:1x5x4 -> d:1x1x4
        stage   Stage x:1x5x4 -> r:1x4x4 f:1x1x4
        stage.l Layer x:1x5x4 -> a:1x5x4
        norm    Norm  f:1x1x4 -> d:1x1x4
        """
    )
    names = {"a": "/stage/l/Neg", "d": "/norm/Exp"}
    assert run("project-names,resolve-auxiliary", GIVEN, sidecar, names)["rest"] == ("norm", "dataflow")
    found = run("project-names,resolve-auxiliary,move-arguments-out,hoist-shared", GIVEN, sidecar, names)
    assert found == {
        "a": ("stage.l", "name"),
        "rest": ("stage", "dataflow"),
        "d": ("norm", "name"),
    }


def test_move_arguments_out_leaves_what_a_module_makes_of_what_it_was_given() -> None:
    sidecar = trace_of(".    Net   x:1x5x4 -> d:1x1x4\nnorm Norm  x:1x5x4 -> d:1x1x4")
    found = run("project-names,resolve-auxiliary,move-arguments-out", GIVEN, sidecar, {"d": "/norm/Exp"})
    assert found["rest"] == ("norm", "dataflow")


FOLDED = f"""{HEAD} g (float[1, 3, 8, 8] x) => (float[1, 4, 8, 8] y)
<float[4, 3, 1, 1] fused = {{{", ".join("1" * 12)}}}> {{
    c = Conv(x, fused)
    y = Relu(c)
}}"""
CONV_BN = trace_of(
    """
    .    Net   x:1x3x8x8 -> y:1x4x8x8
    conv Conv  x:1x3x8x8 -> c:1x4x8x8
    bn   BN    c:1x4x8x8 -> b:1x4x8x8
    act  ReLU  b:1x4x8x8 -> y:1x4x8x8
    """,
    {"conv.weight": [4, 3, 1, 1], "bn.weight": [4]},
)


@pytest.mark.parametrize("named", ["conv", "bn"])
def test_assign_fused_gives_a_node_to_the_module_whose_output_it_makes(named: str) -> None:
    names = {"c": f"/{named}/Conv", "y": "/act/Relu"}
    model = tagged("project-names,assign-fused,record-absent", FOLDED, CONV_BN, names)
    assert annotations(model)["c"] == ("bn", "name")
    assert json.loads(keys.props(model.graph.node[0])[keys.MERGED]) == ["conv", "bn"]
    assert read_absent(model) == {"conv": "merged: bn"}


def test_record_absent_tells_why() -> None:
    sidecar = trace_of(
        """
        .     Net   x:2x4 -> d:2x4
        one   L     x:2x4 -> b:2x4
        drop  D     b:2x4 -> b:2x4
        pos   P     i:4 -> p:4
        aux   A     b:2x4 -> u:2x4
        two   L     b:2x4 -> d:2x4
        """
    )
    names = {"a": "/one/a", "b": "/one/b", "c": "/two/c", "d": "/two/d"}
    model = tagged("project-names,record-absent", CHAIN, sidecar, names)
    assert read_absent(model) == {"drop": "vacuous", "pos": "folded", "aux": "unused"}


def test_project_values_needs_no_names() -> None:
    x = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)
    a, b = -x, np.abs(x)
    arrays = {"x": x, "a": a, "b": b, "d": np.exp(b)}
    recorded = {"x": x} | {str(i): array for i, array in enumerate((x, np.exp(b), b, a))}
    values = Values(recorded.keys(), recorded.__getitem__)
    sidecar = trace_of(
        """
        .      Net    x:2x4 -> d:2x4
        one    Block  x:2x4 -> b:2x4
        one.n  Neg    x:2x4 -> a:2x4
        two    Block  b:2x4 -> d:2x4
        """,
        arrays=arrays,
    )
    text = f"""{HEAD} g (float[2, 4] other) => (float[2, 4] t4) {{
        t1 = Neg(other) t2 = Abs(t1) t3 = Exp(t2) t4 = Identity(t3)
    }}"""
    found = run("project-values,resolve-auxiliary", text, sidecar, values=values)
    assert [scope for scope, _ in found.values()] == ["one.n", "one", "two", "."]
    assert [word for _, word in found.values()] == ["value", "value", "value", "dataflow"]


def test_project_values_knows_a_transposed_result() -> None:
    x = np.linspace(-1, 1, 6, dtype=np.float32).reshape(1, 2, 3)
    arrays = {"x": x, "b": np.exp(x.transpose(0, 2, 1)), "d": np.sqrt(np.exp(x))}
    sidecar = trace_of(
        """
        .   Net  x:1x2x3 -> d:1x2x3
        one L    x:1x2x3 -> b:1x3x2
        two L    b:1x3x2 -> d:1x2x3
        """,
        arrays=arrays,
    )
    text = f"{HEAD} g (float[1, 2, 3] x) => (float[1, 2, 3] t2) {{ t1 = Exp(x) t2 = Sqrt(t1) }}"
    passes = "project-values,resolve-auxiliary,hoist-shared"
    model = tagged(passes, text, sidecar, values=values_of(arrays, "x d b"))
    assert [scope for scope, _ in annotations(model).values()] == ["one", "two"]
    assert json.loads(keys.props(model.graph.node[1])[keys.MERGED]) == ["two", "one"]


@pytest.mark.parametrize(("last", "scope"), [("Exp", "mask"), ("Identity", ".")])
def test_project_values_takes_equal_elements_only_where_nothing_else_looks_so(last: str, scope: str) -> None:
    ones = np.ones((2, 3), np.float32)
    arrays = {"x": np.linspace(1, 2, 6, dtype=np.float32).reshape(2, 3), "m": ones, "d": np.exp(ones)}
    sidecar = trace_of(".    Net  x:2x3 -> d:2x3\nmask Mask x:2x3 -> m:2x3", arrays=arrays)
    text = f"{HEAD} g (float[2, 3] x) => (float[2, 3] t2) {{ t1 = Div(x, x) t2 = {last}(t1) }}"
    found = run("project-values,resolve-auxiliary", text, sidecar, values=values_of(arrays, "x d m"))
    assert found["t1"][0] == scope


def test_project_values_passes_over_what_is_no_tensor() -> None:
    x = np.linspace(1, 2, 6, dtype=np.float32).reshape(2, 3)
    arrays = {"x": x, "n": -x, "d": np.exp(-x)}
    sidecar = trace_of(".     Net   x:2x3 -> d:2x3\nfirst First x:2x3 -> n:2x3", arrays=arrays)
    text = f"""{HEAD} g (float[2, 3] x) => (float[2, 3] d) {{
        n = Neg(x)
        t = SplitToSequence <axis = 0> (n)
        c = ConcatFromSequence <axis = 0> (t)
        d = Exp(c)
    }}"""
    found = run("project-values,resolve-auxiliary", text, sidecar, values=values_of(arrays, "x d n"))
    assert found["n"] == ("first", "value")
    assert found["d"] == (".", "value")


def test_untag_leaves_foreign_metadata() -> None:
    model = tagged(
        "project-names,resolve-auxiliary,record-absent,untag", CHAIN, TWO, {"a": "/one/a"}, {"a": ["", "one", "f"]}
    )
    assert [p.key for p in model.graph.node[0].metadata_props] == [keys.TORCH_NAME_SCOPES]
    assert not model.metadata_props


def test_weights_that_are_deferred_are_no_matter() -> None:
    model = parser.parse_model(CHAIN)
    model.graph.initializer.append(numpy_helper.from_array(np.ones(4, np.float32), "unused"))
    Pipeline.parse("project-names,resolve-auxiliary").apply(WorkingModel(model, sidecar=TWO))
    assert all(keys.props(node)[keys.SCOPE] for node in model.graph.node)


def test_a_graph_cannot_make_tagging_compute_much() -> None:
    text = f"""{HEAD} g (float[2, 4] x) => (float[2, 4] d) {{
        n = Constant <value = int64[2] {{1000000, 1000000}}> ()
        huge = ConstantOfShape (n)
        two = Constant <value = int64[1] {{0}}> ()
        four = ReduceMax (huge)
        a = Add(x, four)
        d = Neg(a)
    }}"""
    sidecar = trace_of(
        ".  Net x:2x4 -> d:2x4\none L x:2x4 -> a:2x4\ntwo L a:2x4 -> d:2x4", arrays={"a": np.arange(8.0)}
    )
    names = {"huge": "/one/a", "four": "/one/b", "a": "/one/c", "d": "/two/d"}
    assert run("project-names,resolve-auxiliary,hoist-shared", text, sidecar, names)["a"] == ("one", "name")


def test_project_values_of_a_graph_that_does_not_run_leaves_the_work_to_other_evidence() -> None:
    x = np.linspace(1, 2, 8, dtype=np.float32).reshape(2, 4)
    values = values_of({"x": x, "a": -x, "b": np.abs(x), "d": np.exp(x)}, "x a b d")
    passes, text = "project-names,project-values,resolve-auxiliary", CHAIN.replace("Relu", "of.another.Runtime")
    names = {"a": "/one/n/Neg", "b": "/one/Abs"}
    with pytest.warns(match="the recorded values are not used: ONNX Runtime cannot run the graph"):
        found = run(passes, text, TWO, names, values=values)
    assert [found[name] for name in "cd"] == [("two", "dataflow"), ("two", "name")]
    with pytest.raises(InputError, match="cannot run the graph"):
        run("project-values,resolve-auxiliary", text, TWO, values=values)
