"""The pass `hoist-shared`, on what the text of golden cases cannot say."""

from __future__ import annotations

from mxtools.pipeline.pipeline import Pipeline
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes import keys
from tests.support.passes_on_text import annotations, run, tagged
from tests.support.small_graphs import HEAD
from tests.support.small_traces import trace_of


def test_hoist_shared_leaves_what_the_model_returns_twice_to_the_module_that_returned_it() -> None:
    text = f"""{HEAD} g (float[2, 4] x) => (float[2, 4] y, float[2, 4] again, float[2, 4] d) {{
        y = Exp(x)
        again = Identity(y)
        d = Abs(y)
    }}"""
    names = {"y": "/one/Exp", "again": "/one/Identity", "d": "/two/Abs"}
    sidecar = trace_of(".  Net x:2x4 -> y:2x4 d:2x4\none L x:2x4 -> y:2x4\ntwo L y:2x4 -> d:2x4")
    root = sidecar.calls[0]
    y, d = root.outputs
    root = root.model_copy(update={"outputs": (y, y.model_copy(update={"name": "again"}), d)})
    sidecar = sidecar.model_copy(update={"calls": (root, *sidecar.calls[1:])})
    assert run("project-names,hoist-shared", text, sidecar, names)["y"] == ("one", "name")


def test_hoist_shared_moves_a_node_out_of_equal_calls_too() -> None:
    sidecar = trace_of(
        """
        .      Net  x:2x4 m:2x1 -> z:2x4
        f      F    x:2x4 m:2x1 -> q:2x4
        f.a    L    x:2x4 m:2x1 -> p:2x4
        f.b    L    p:2x4 m:2x1 -> q:2x4
        f@1    F    q:2x4 m:2x1 -> z:2x4
        f@1.a  L    q:2x4 m:2x1 -> r:2x4
        f@1.b  L    r:2x4 m:2x1 -> z:2x4
        """
    )
    text = f"""{HEAD} g (float[2, 4] x, float[2, 1] m) => (float[2, 4] z) {{
        k = Abs(m)
        p = Add(x, k)
        q = Mul(p, k)
        r = Add(q, k)
        z = Mul(r, k)
    }}"""
    names = {"k": "/f/a/Abs", "p": "/f/a/Add", "q": "/f/b/Mul", "r": "/f/a_1/Add", "z": "/f/b_1/Mul"}
    model = tagged("project-names", text, sidecar, names)
    model.graph.node[0].metadata_props.add(key=keys.EQUAL, value='["f@1.a"]')
    Pipeline.parse("hoist-shared").apply(WorkingModel(model, sidecar=sidecar))
    assert annotations(model)["k"] == ("f", "dataflow")
    assert keys.props(model.graph.node[0])[keys.EQUAL] == '["f@1"]'


def test_hoist_shared_leaves_what_others_read_only_the_size_of() -> None:
    text = f"""{HEAD} g (float[2, 4] x) => (float[2, 4] y, float[2, 4] z) {{
        k = Exp(x)
        s = Shape(k)
        y = Abs(k)
        z = Expand(y, s)
    }}"""
    names = {"k": "/one/Exp", "s": "/one/Shape", "y": "/one/Abs", "z": "/Expand"}
    placed = run(
        "project-names,hoist-shared", text, trace_of(".  Net x:2x4 -> y:2x4 z:2x4\none L x:2x4 -> y:2x4"), names
    )
    assert placed == {"k": ("one", "name"), "s": (".", "dataflow"), "y": ("one", "name"), "z": (".", "name")}
