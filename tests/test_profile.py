"""`mx profile`: nearly all kernel time has a module, with ONNX Runtime's full optimisation, and the right one."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, parser

import mxtools
from mxtools.errors import InputError
from mxtools.graph.index import Graph
from mxtools.pipeline.working_model import WorkingModel
from mxtools.profile import timing as profiling
from mxtools.profile.alone import distinct_modules, times_alone
from mxtools.profile.attribution import Attribution, OriginalNames
from mxtools.profile.memory import memory_of
from mxtools.profile.report import ProfileReport, schema
from mxtools.runtime.sessions import Level
from mxtools.scopes import keys
from mxtools.scopes.scope import contains
from mxtools.traces.values import Values
from tests.support.commands import Mx
from tests.support.paths import ROOT
from tests.support.shared_models import Build
from tests.support.small_graphs import HEAD, tagged

EXPORTERS = ("torchscript", "dynamo")


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", ["bert", "llama", "resnet", "repeated"])
def test_nearly_all_time_has_a_module(built: Build, name: str, exporter: str) -> None:
    """Under full optimisation, as ONNX Runtime's own total says; rows add up to the total."""
    loaded = WorkingModel.read(built(name, exporter) / "tagged.onnx")
    timing = profiling.run(loaded, runs=3)
    assert timing.attributed >= 0.95
    lost = sum(kernel.time for kernel in timing.unknown)
    assert sum(timed.own for timed in timing.root.every()) + lost == pytest.approx(timing.total, rel=1e-12)
    assert timing.total == pytest.approx(sum(np.median(k.times) for k in timing.profile.kernels), rel=1e-12)
    assert timing.root.time + lost == pytest.approx(timing.total, rel=1e-12)
    assert timing.total <= max(timing.profile.runs)  # what runs inside of a body counts once * 1.05
    assert all(len(kernel.times) == 3 for kernel in timing.profile.kernels)


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", ["bert", "llama", "resnet"])
def test_optimised_nodes_belong_to_what_made_their_tensors(built: Build, name: str, exporter: str) -> None:
    """A node whose output has a name of the original is in a module that holds, or is in, the one that made it."""
    loaded = WorkingModel.read(built(name, exporter) / "tagged.onnx")
    annotations = loaded.annotations
    before = annotations.graph
    for level in (Level.BASIC, Level.EXTENDED, Level.ALL):
        after = profiling._optimise(loaded, level)
        assert after
        found = Attribution(annotations, after).calls
        checked = 0
        for node, call in enumerate(found):
            for value in after.writes[node]:
                original = before.by_name.get(after.names[value])
                if original is not None and before.producer[original] >= 0:
                    scope, own = (
                        annotations.hierarchy.scopes[c or 0]
                        for c in (call, annotations.call[before.producer[original]])
                    )
                    assert call is not None
                    assert contains(scope, own)
                    checked += 1
        assert checked >= 3
        scopes = [annotations.hierarchy.scopes[call] for call in found if call is not None]
        assert sum(scope.count(".") >= 1 for scope in scopes) >= 0.7 * len(scopes)


def test_convolutions_in_blocked_layouts(built: Build) -> None:
    """None of their tensors has a name of the original; the names of the weights tell whose they are, in order."""
    loaded = WorkingModel.read(built("resnet", "dynamo") / "tagged.onnx")
    annotations = loaded.annotations
    layers = [
        next(name for name in node.input if "convolution.weight" in name).partition(".convolution")[0]
        for node in loaded.proto.graph.node
        if node.op_type == "Conv"
    ]
    after = profiling._optimise(loaded, Level.ALL)
    assert after
    calls = Attribution(annotations, after).calls
    found = [annotations.hierarchy.scopes[c or 0] for n, c in enumerate(calls) if after.nodes[n].op_type == "Conv"]
    assert len(found) == len(layers)
    unmatched = sorted(layers)
    for scope in found:
        assert any(contains(layer, scope) for layer in layers), scope
        unmatched.remove(next(layer for layer in unmatched if contains(layer, scope)))
    assert not unmatched
    assert not any(scope.endswith("activation") for scope in found)


def attributed(before: ModelProto, after: ModelProto | str) -> dict[str, str | None]:
    """Return the scopes of the nodes of an optimised graph, by first output."""
    annotations = WorkingModel(before).annotations
    optimised = Graph(parser.parse_model(after) if isinstance(after, str) else after)
    calls = Attribution(annotations, optimised).calls
    scopes = annotations.hierarchy.scopes
    return {
        node.output[0]: None if call is None else scopes[call]
        for node, call in zip(optimised.nodes, calls, strict=True)
    }


FUSED = (
    HEAD
    + """ g (float[2, 4] x) => (float[2, 4] y) <float[4, 4] w, float[4] b> {
    m = MatMul(x, w) s = Add(m, b) r = Add(s, x) n = Sigmoid(r) y = Mul(n, r)
}"""
)
SCOPES = {"m": "out.dense", "s": "out.dense", "r": "out", "n": "out.norm", "y": "out.act"}


OPTIMISED = """<ir_version: 10, opset_import: ["" : 21, "Own" : 1]> g (float[2, 4] x) => (float[2, 4] y)
<float[4] b = {1, 1, 1, 1}, float[2] w = {1, 1}, float[2] w2 = {1, 1}>"""


def fused() -> ModelProto:
    model = tagged(FUSED, SCOPES)
    for number, node in enumerate(model.graph.node):
        node.name = f"node_{number}"
        levels = ["Net", *(level.title() for level in SCOPES[node.output[0]].split("."))]
        node.metadata_props.add(key=keys.TAG, value="/" + "/".join(levels))
    model.graph.initializer.extend(
        helper.make_tensor(name, TensorProto.FLOAT, dims, np.ones(dims).ravel())
        for name, dims in (("w", [4, 4]), ("b", [4]))
    )
    del model.graph.value_info[:]
    return model


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("n = Own.All(x, w, b) y = Mul(n, x)", {"n": "out", "y": "out"}),
        ("s = Own.Gemm(x, w, b) r = Add(s, x) y = Own.Tail(r)", {"s": "out.dense", "r": "out", "y": "out"}),
        ("p = Own.Pack(x) q = Own.Gemm(p, w2, b) s = Own.Unpack(q) y = Own.Tail(s)",
         {"p": "out.dense", "q": "out.dense", "s": "out.dense", "y": "out"}),
        ("t1 = Own.Copy(x) y = Own.All(t1, w, b)", {"t1": "out", "y": "out"}),
    ],
)  # fmt: skip
def test_fused_nodes_belong_to_what_holds_all_that_they_do(text: str, expected: dict[str, str]) -> None:
    assert attributed(fused(), f"{OPTIMISED} {{ {text} }}") == expected


def test_names_derive_from_nodes_and_tensors() -> None:
    names = OriginalNames(Graph(fused()))
    graph = Graph(fused())
    maker = {graph.names[v]: node for node, made in enumerate(graph.writes) for v in made}
    assert names.derived("node_1") == maker["s"]
    assert names.derived("node_1/MatMulAddFusion") == maker["s"]
    assert names.derived("node_11") is None
    assert names.derived("y_nchwc") == maker["y"]
    assert names.derived("yes") is None
    assert names.within("node_0 + node_1") == [maker["m"], maker["s"]]
    assert names.within("{ForeignNode[node_2...node_4]}") == [maker["r"], maker["y"]]
    assert names.within("PWN(PWN(node_3), node_4)") == [maker["n"], maker["y"]]
    assert names.within("Reformatting CopyNode for Input Tensor 0 to node_3") == [maker["n"]]
    assert names.within("something else") == []


def test_what_nobody_knows_has_its_own_row(tmp_path: Path) -> None:
    model = fused()
    (tmp_path / "p.json").write_text(
        json.dumps([{"count": 1}, {"name": "node_0 + node_1", "averageMs": 0.3}, {"name": "mystery", "averageMs": 0.1}])
    )
    timing = profiling.read(WorkingModel(model), [tmp_path / "p.json"])
    assert [kernel.name for kernel in timing.unknown] == ["mystery"]
    assert timing.attributed == pytest.approx(0.75)
    assert {t.scope: (t.time, t.own) for t in timing.root.every()} == {
        ".": (300.0, 0.0), "out": (300.0, 0.0), "out.dense": (300.0, 300.0)
    }  # fmt: skip


LOOP = (
    HEAD
    + """ g (int64 trips, bool go, float[8] x) => (float[8] y) <float one = {1}> {
    a = Exp(x)
    b = Loop(trips, go, a) <body = body (int64 i, bool c, float[8] v) => (bool c2, float[8] w) {
        c2 = Identity(c) t = Tanh(v) w = Add(t, one)
    }>
    y = Neg(b)
}"""
)


def test_bodies_are_profiled_once(tmp_path: Path) -> None:
    model = tagged(LOOP, {"a": "one", "b": "loop", "y": "two"})
    for node in model.graph.node[1].attribute[0].g.node:
        keys.replace_props(node, keys.NODE_KEYS, {keys.SCOPE: "loop.body", keys.TAG: "", keys.EVIDENCE: "name"})
    np.savez(tmp_path / "i.npz", trips=np.int64(50), go=np.bool_(True), x=np.ones(8, np.float32))
    from mxtools.traces.values import Values

    timing = profiling.run(WorkingModel(model, values=Values.open(tmp_path / "i.npz")), Level.NONE, runs=3)
    assert timing.total <= max(timing.profile.runs)  # what runs inside of a body counts once
    operators = {t.scope: {kernel.operator for kernel in t.kernels} for t in timing.root.every()}
    assert operators["loop"] == {"Loop"}
    assert {"Tanh", "Add"} <= operators["loop.body"]
    assert timing.attributed == 1.0


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("level", ["ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_ALL"])
def test_a_profile_that_onnx_runtime_wrote_elsewhere(built: Build, tmp_path: Path, exporter: str, level: str) -> None:
    path = built("resnet", exporter) / "tagged.onnx"
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "p")
    session = onnxruntime.InferenceSession(path, options)
    feeds = {i.name: np.ones(i.shape, np.float32) for i in session.get_inputs()}
    for _ in range(3):
        session.run(None, feeds)
    loaded = WorkingModel.read(path)
    timing = profiling.read(loaded, [Path(session.end_profiling())])
    assert timing.attributed >= 0.95
    assert len(timing.profile.runs) == 3
    assert len([t for t in timing.root.every() if t.kernels]) > 5


def test_nodes_get_names_of_their_own() -> None:
    model = parser.parse_model(LOOP)
    model.graph.node[0].name = "same"
    model.graph.node[2].name = "same"
    profiling.name_nodes(model)
    inner = model.graph.node[1].attribute[0].g.node
    names = [node.name for node in (*model.graph.node, *inner)]
    assert len(set(names)) == len(names)
    assert model.graph.node[0].name == "same"
    assert all(names)


def test_reports_are_data_and_compare(mx: Mx, built: Build, tmp_path: Path) -> None:
    model = built("bert") / "tagged.onnx"
    done = mx("profile", model, "--runs", 2, "--level", "none", "--json")
    assert done.returncode == 0, done.stderr.decode()
    data = json.loads(done.stdout)
    jsonschema.validate(data, json.loads((ROOT / "docs" / "profile.schema.json").read_text()))
    assert json.loads((ROOT / "docs" / "profile.schema.json").read_text()) == schema()
    before = ProfileReport.model_validate(data)
    own = sum(module.own for module in before.modules) + sum(k.microseconds for k in before.unattributed)
    assert own == pytest.approx(before.microseconds, rel=1e-12)
    (tmp_path / "before.json").write_bytes(done.stdout)
    done = mx("profile", model, "--runs", 2, "--against", tmp_path / "before.json", "--json")
    rows = {row["scope"]: row for row in json.loads(done.stdout)["modules"]}
    assert rows["encoder"]["before"] == next(m.microseconds for m in before.modules if m.scope == "encoder")
    done = mx("profile", model, "--runs", 2, "--against", tmp_path / "before.json", "--plot", tmp_path / "p.svg")
    table = done.stdout.decode()
    assert "before µs" in table
    assert "encoder.layer.0.output.LayerNorm" in table, "fused away, and said to be gone"
    assert (tmp_path / "p.svg").read_text().startswith("<?xml")


def test_the_command(mx: Mx, built: Build) -> None:
    done = mx(
        "profile", "--runs", 2, "--depth", 1, "--threads", 1, stdin=(built("convnet") / "tagged.onnx").read_bytes()
    )
    assert done.returncode == 0, done.stderr.decode()
    lines = [line.split()[0] for line in done.stdout.decode().splitlines()]
    assert lines[:2] == ["module", "."]
    assert lines[-2:] == ["(unattributed)", "(total)"]
    assert b"% of" in done.stderr
    assert b"median of 2 runs" in done.stderr


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (("--provider", "NoSuchProvider"), 2, b"there are"),
        (("--level", "most"), 2, b"--level"),
        (("--from-profile", "nope.json"), 3, b"nope.json cannot be read"),
        (("--against", "nope.json"), 3, b"mx profile --json"),
        (("--plot", "p.gif"), 2, b".png or .svg"),
    ],
)
def test_wrong_options(mx: Mx, built: Build, options: tuple[str, str], status: int, message: bytes) -> None:
    done = mx("profile", built("convnet") / "tagged.onnx", *options)
    assert done.returncode == status
    assert message in done.stderr
    assert not done.stdout


def test_a_graph_without_scopes_is_refused() -> None:
    model = parser.parse_model(HEAD + " g (float[2] x) => (float[2] y) { y = Neg(x) }")
    with pytest.raises(InputError, match=r"model\.tag"):
        profiling.run(WorkingModel(model))


@pytest.mark.model
def test_modules_that_run_alone_are_timed_once_for_all_equal_ones(built: Build, mx: Mx) -> None:
    done = mx("profile", built("bert") / "tagged.onnx", "--runs", "3", "--isolate", "--json")
    assert done.returncode == 0, done.stderr
    alone = {module["scope"]: module.get("alone") for module in json.loads(done.stdout)["modules"]}
    assert alone["."] > 0
    assert alone["encoder.layer.0.output.dense"] == alone["encoder.layer.1.output.dense"]
    assert alone["encoder.layer.0"] > alone["encoder.layer.0.output.dense"] > 0
    done = mx("profile", built("bert") / "tagged.onnx", "--runs", "1", "--isolate", "--depth", "1")
    assert "alone µs" in done.stdout.decode().splitlines()[0]
    assert "innermost modules take" in done.stderr.decode()


def test_modules_of_other_shapes_are_not_equal() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21]>
    g (float[2, 4] x, float[3, 4] z) => (float[2, 4] a, float[3, 4] b) { a = Relu(x) b = Relu(z) }"""
    model = parser.parse_model(text)
    for node, scope in zip(model.graph.node, "ab", strict=True):
        for key, value in (("scope", scope), ("tag", f"/M/{scope}"), ("evidence", "name")):
            node.metadata_props.add(key=f"pkg.mxtools.{key}", value=value)
    working = WorkingModel(model)
    modules = distinct_modules(working)
    assert len(modules) == 3
    found = times_alone(working, modules, runs=1)
    assert found.keys() == {".", "a", "b"}


CHAIN = (
    HEAD
    + """ g (float[n, 1024] x) => (float[n, 1024] y) {
        a = Exp(x)
        b = Neg(a)
        c = Add(a, b)
        d = Abs(c)
        y = Mul(d, c)
    }"""
)


def test_memory_is_what_the_arena_gives_out() -> None:
    """Three values of 256 kB live at once, beside the input, which does not count."""
    model = WorkingModel(tagged(CHAIN, dict.fromkeys("abcdy", "m")))
    model.values = Values({"x"}, lambda _: np.ones((64, 1024), "f"))
    found = memory_of(model)
    assert found.computed == 3 * 64 * 1024 * 4
    assert abs(found.arena / found.computed - 1) < 0.01


def test_memory_of_functions_is_measured_though_it_is_not_computed(tmp_path: Path) -> None:
    text = CHAIN.replace('["" : 21]', '["" : 21, "own" : 1]').replace("Exp(x)", "own.f(x)")
    model = tagged(text + '<domain: "own", opset_import: ["" : 21]> f (p) => (q) { q = Exp(p) }', {"a": "m"})
    found = memory_of(WorkingModel(model))
    assert found.arena >= 3 * 8 * 1024 * 4


def test_memory_that_cannot_be_measured() -> None:
    text = HEAD + " g (float[2] x) => (float[3] y) <int64[1] s = {3}> { y = Reshape(x, s) }"
    with pytest.raises(InputError, match="ONNX Runtime's arena cannot be asked"):
        memory_of(WorkingModel(tagged(text, {"y": "m"})))
    text = HEAD + " g (string[2] x) => (string[2] y) { y = Identity(x) }"
    model = WorkingModel(tagged(text, {"y": "m"}))
    model.values = Values({"x"}, lambda _: np.array(["a", "b"], object))
    with pytest.raises(InputError, match="is not asked where an input such as 'x' is none of numbers"):
        memory_of(model)


def test_the_memory_of_a_command(mx: Mx) -> None:
    stdin = tagged(CHAIN, {"a": "m"}).SerializeToString()
    done = mx("profile", "--memory", "--runs", "1", stdin=stdin)
    assert (done.returncode, b"kB by their shapes" in done.stderr) == (0, True), done.stderr
    report = json.loads(mx("profile", "--memory", "--runs", "1", "--json", stdin=stdin).stdout)
    jsonschema.validate(report, schema())
    assert report["memory"]["computed"] == 3 * 8 * 1024 * 4
    done = mx("profile", "--memory", "--from-profile", "p.json", stdin=stdin)
    assert (done.returncode, done.stderr) == (2, b"mx profile: --from-profile runs nothing: leave --memory out\n")


def test_a_folded_model_has_the_modules_that_it_has_unfolded(mx: Mx, tmp_path: Path) -> None:
    """A kernel of a function that several modules call belongs to the module of the call."""
    text = HEAD + " g (float[8, 8] x) => (float[8, 8] y) { a = Exp(x)\n b = Neg(a)\n c = Exp(b)\n y = Neg(c) }"
    model = tagged(text, {"a": "one", "b": "one", "c": "two", "y": "two"})
    for number, node in enumerate(model.graph.node):
        node.name = f"node_{number}"
        keys.set_prop(node, keys.TAG, f"/Net/Block.{keys.props(node)[keys.SCOPE]}")
    whole = mxtools.from_proto(model)
    folded = whole.fold("*")
    assert len(folded.proto.functions) == 1
    kernels = [[(m.scope, len(m.kernels)) for m in given.profile(runs=1).modules] for given in (whole, folded)]
    assert kernels[0] == kernels[1] == [(".", 0), ("one", 2), ("two", 2)]
    folded.save(tmp_path / "f.onnx")
    rows = mx("profile", "f.onnx", "--runs", "1", cwd=tmp_path).stdout.decode().splitlines()
    assert [row.split()[1] for row in rows[2:4]] == ["one", "two"]
