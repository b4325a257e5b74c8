"""`mx verify --against`: the module in which two graphs, or two runtimes, part."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, helper, numpy_helper

from tests.support.changed_weights import changed
from tests.support.commands import Mx
from tests.support.shared_models import Build

DENSE = "encoder.layer.1.intermediate.dense"
PAIR = """<ir_version: 10, opset_import: ["" : 21]> g (float[2, 4] x) => (float[2, 4] y)
<float[4, 4] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4, 5, 6, 7}> {
    a = MatMul(x, w)
    b = Softmax(a)
    c = MatMul(b, w)
    y = Tanh(c)
}"""
SCOPES = {"a": "block.proj", "b": "block", "c": "block.out", "y": "act"}


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """Return a model whose `block` calls `proj`, takes the softmax of its result itself, and then calls `out`."""
    onnx.save(pair(), tmp_path / "good.onnx")
    return tmp_path / "good.onnx"


def pair() -> ModelProto:
    model = onnx.parser.parse_model(PAIR)
    for node in model.graph.node:
        scope = SCOPES[node.output[0]]
        for key, value in (("scope", scope), ("tag", f"/M/{scope.replace('.', '/')}"), ("evidence", "name")):
            node.metadata_props.add(key=f"pkg.mxtools.{key}", value=value)
    return model


def node_of(model: ModelProto, output: str) -> NodeProto:
    return next(node for node in model.graph.node if output in node.output)


def other_axis(model: ModelProto) -> str:
    node_of(model, "b").attribute.append(helper.make_attribute("axis", 0))
    return "block"


def dropped(model: ModelProto) -> str:
    node_of(model, "y").op_type = "Identity"
    return "act"


def not_a_number(model: ModelProto) -> str:
    weight = numpy_helper.to_array(model.graph.initializer[0]).copy()
    weight[1, 1] = np.nan
    model.graph.initializer.append(numpy_helper.from_array(weight, "bad"))
    node_of(model, "c").input[1] = "bad"
    return "block.out"


def overflowing(model: ModelProto) -> str:
    """Let a result go through float16, in nodes of the module behind the one that still computes it exactly."""
    first = node_of(model, "a")
    first.output[0] = "exact"
    model.graph.initializer.append(numpy_helper.from_array(np.float32(1e5), "large"))
    steps = [("Mul", ["exact", "large"], "p", {}), ("Cast", ["p"], "q", {"to": 10}), ("Cast", ["q"], "r", {"to": 1})]
    for number, (operator, reads, writes, attributes) in enumerate([*steps, ("Div", ["r", "large"], "a", {})], 1):
        step = helper.make_node(operator, reads, [writes], **attributes)
        step.metadata_props.extend(first.metadata_props)
        model.graph.node.insert(number, step)
    return "block.proj"


def report(done: Any) -> Any:
    return json.loads(done.stdout)


@pytest.mark.parametrize("fault", [other_axis, dropped, not_a_number, overflowing])
def test_the_module_with_a_fault_is_named(fault: Any, good: Path, mx: Mx, tmp_path: Path) -> None:
    """Also where the nodes with the fault are a module's own, and lie before one that it calls."""
    model = pair()
    scope = fault(model)
    onnx.save(model, tmp_path / "bad.onnx")
    found = mx("verify", tmp_path / "bad.onnx", "--against", good, "--isolate", "--json")
    assert found.returncode == 1
    assert report(found)["culprits"] == [scope]
    found = mx("verify", tmp_path / "bad.onnx", "--against", good, "--bisect", "--json")
    assert found.returncode == 1
    assert report(found)["wrong"] == scope
    assert report(found)["parts"] <= 8


@pytest.mark.model
def test_a_change_deep_inside_is_found_with_few_parts_and_saved_as_a_case(built: Build, mx: Mx, tmp_path: Path) -> None:
    good = built("bert") / "tagged.onnx"
    changed(good, DENSE, tmp_path / "bad.onnx")
    line = ["verify", tmp_path / "bad.onnx", "--against", good]
    done = mx(*line, "--bisect", "--save-case", tmp_path / "case")
    assert done.returncode == 1
    assert f"{DENSE} is the smallest module that is wrong on its own" in done.stderr.decode()
    parts = int(done.stderr.decode().split(" parts were run")[0].split()[-1])
    assert parts < 15  # of 39 modules
    ran = subprocess.run([sys.executable, tmp_path / "case" / "run.py"], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (1, "")
    done = mx(*line, "--isolate")
    assert f"wrong on its own: {DENSE}; {DENSE} is the first module that goes wrong" in done.stderr.decode()


@pytest.mark.model
@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_a_graph_at_other_levels_is_right(built: Build, mx: Mx, exporter: str) -> None:
    good = built("bert", exporter) / "tagged.onnx"
    for level in ("extended", "all"):
        for way in ("--isolate", "--bisect"):
            done = mx("verify", good, "--against", good, "--level", level, way, "--json")
            assert done.returncode == 0, done.stderr
            assert report(done)["runtime"] == f"ONNX Runtime (CPU, {level})"
            assert report(done).get("culprits", []) == []
            assert report(done).get("wrong") is None


def test_elements_that_overflow_are_counted(good: Path, mx: Mx, tmp_path: Path) -> None:
    model = pair()
    overflowing(model)
    onnx.save(model, tmp_path / "bad.onnx")
    np.savez(tmp_path / "x.npz", x=np.float32([[1, 0, 0, 0], [0, 0, 0, 0]]))  # one row is all zeros, which stay finite
    line = ["verify", tmp_path / "bad.onnx", "--against", good, "--inputs", tmp_path / "x.npz"]
    modules = {module["scope"]: module for module in report(mx(*line, "--json"))["modules"]}
    assert modules["block.proj"]["outputs"][0]["not_finite"] == 4
    assert "first wrong, 4 elements are inf or nan" in mx(*line).stdout.decode()


def test_the_first_module_is_the_first_that_works_on_inputs(mx: Mx, tmp_path: Path) -> None:
    """Exporters put the constants of later modules before all others."""
    for name in ("good", "bad"):
        model = pair()
        if name == "bad":
            node_of(model, "a").op_type = "Gemm"
            node_of(model, "a").attribute.append(helper.make_attribute("alpha", 0.5))
        node_of(model, "y").op_type = "Mul"
        node_of(model, "y").input.append("k")
        constant = helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(np.float32(2)))
        constant.metadata_props.extend(node_of(model, "y").metadata_props)
        model.graph.node.insert(0, constant)
        onnx.save(model, tmp_path / f"{name}.onnx")
    done = mx("verify", tmp_path / "bad.onnx", "--against", tmp_path / "good.onnx", "--json")
    assert report(done)["first"] == "block.proj"


def test_a_model_without_tags_gets_those_of_the_other(good: Path, mx: Mx, tmp_path: Path) -> None:
    model = pair()
    dropped(model)
    for node in model.graph.node:
        del node.metadata_props[:]
    onnx.save(model, tmp_path / "bad.onnx")
    done = mx("verify", tmp_path / "bad.onnx", "--against", good, "--isolate", "--json")
    assert report(done)["culprits"] == ["act"]
    done = mx("verify", good, "--against", tmp_path / "bad.onnx")
    assert done.returncode == 3
    assert b"no node of" in done.stderr


def test_the_worst_of_several_sets_of_inputs_counts(good: Path, mx: Mx, tmp_path: Path) -> None:
    """A fault that only one of them shows: Relu in place of Tanh is right at zero."""
    model = pair()
    node_of(model, "y").op_type = "Identity"
    onnx.save(model, tmp_path / "bad.onnx")
    for file in ("good.onnx", "bad.onnx"):  # the result is x times something, so that zeros hide the fault
        changed = onnx.load(tmp_path / file)
        changed.graph.node.insert(3, helper.make_node("Mul", ["c", "x"], ["d"]))
        changed.graph.node[3].metadata_props.extend(changed.graph.node[2].metadata_props)
        node_of(changed, "y").input[0] = "d"
        onnx.save(changed, tmp_path / file)
    (tmp_path / "sets").mkdir()
    np.savez(tmp_path / "sets" / "a.npz", x=np.zeros((2, 4), np.float32))
    line = ["verify", tmp_path / "bad.onnx", "--against", tmp_path / "good.onnx", "--json", "--inputs"]
    assert mx(*line, tmp_path / "sets" / "a.npz").returncode == 0
    np.savez(tmp_path / "sets" / "b.npz", x=np.ones((2, 4), np.float32))
    done = mx(*line, tmp_path / "sets")
    assert done.returncode == 1
    assert report(done)["first"] == "act"
    act = next(module for module in report(done)["modules"] if module["scope"] == "act")
    assert 0 < act["mean_relative_l2"] < 10 ** (-act["outputs"][0]["sqnr_db"] / 20)
    done = mx(*line[:-2], "--inputs", tmp_path / "sets", "--save-case", tmp_path / "case")
    assert b"act is saved in" in done.stderr
    assert not np.array_equal(np.load(tmp_path / "case" / "inputs.npz")["d"], np.zeros((2, 4)))


TOOL = """
import sys
import numpy as np
import onnx
import onnxruntime
model = onnx.load(sys.argv[1])
for node in model.graph.node:
    if node.op_type == "Tanh":
        node.op_type = "Sigmoid"
session = onnxruntime.InferenceSession(model.SerializeToString())
names = [value.name for value in session.get_outputs()]
print("a tool talks")
np.savez(sys.argv[3], **dict(zip(names, session.run(names, dict(np.load(sys.argv[2]))))))
"""


def test_another_program_runs_the_model(good: Path, mx: Mx, tmp_path: Path) -> None:
    """It has a bug in one operator."""
    (tmp_path / "tool.py").write_text(TOOL)
    command = f"{sys.executable} {tmp_path / 'tool.py'} {{model}} {{inputs}} {{outputs}}"
    done = mx("verify", good, "--against", good, "--command", command, "--bisect", "--json")
    assert (done.returncode, report(done)["wrong"]) == (1, "act")
    done = mx("verify", good, "--against", good, "--command", command, "--isolate", "--json")
    assert report(done)["culprits"] == ["act"]
    case = tmp_path / "case"
    assert mx("verify", good, "--against", good, "--command", command, "--bisect", "--save-case", case).returncode == 1
    ran = subprocess.run(
        [sys.executable, case / "run.py", "--outputs", case / "actual.npz"], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 1
    assert "expected" in ran.stdout
    assert subprocess.run([sys.executable, case / "run.py"], check=False).returncode == 0
    assert subprocess.run([sys.executable, case / "run.py", "--provider", "X"], check=False).returncode == 1
    (tmp_path / "tool.py").write_text("raise SystemExit('no licence')")
    for way in ([], ["--bisect"], ["--isolate"]):  # that it does not run at all is the fault of no module
        done = mx("verify", good, "--against", good, "--command", command, *way)
        assert done.returncode == 3
        assert b"failed with exit status 1: no licence" in done.stderr


def test_modules_in_functions_are_compared(good: Path, mx: Mx, tmp_path: Path) -> None:
    """What `mx fold` made of them is unfolded first."""
    model = pair()
    dropped(model)
    onnx.save(model, tmp_path / "bad.onnx")
    done = mx("fold", tmp_path / "bad.onnx", "--each", "block", "-o", tmp_path / "folded.onnx")
    assert done.returncode == 0, done.stderr
    done = mx("verify", tmp_path / "folded.onnx", "--against", good, "--isolate", "--json")
    assert report(done)["culprits"] == ["act"]
    assert {module["scope"] for module in report(done)["modules"] if module["outputs"]} == {".", *SCOPES.values()}


def test_nodes_that_fall_back_to_the_cpu_are_counted(good: Path, mx: Mx) -> None:
    """ONNX Runtime's packages have a provider for services elsewhere, which takes no usual node."""
    for way in ("--isolate", "--bisect"):
        done = mx("verify", good, "--against", good, "--provider", "AzureExecutionProvider", way)
        assert done.returncode == 0, done.stderr
        said = "CPUExecutionProvider ran 4 of 4 nodes, not AzureExecutionProvider"
        assert said in done.stderr.decode()


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_values_of_a_run_elsewhere_stand_for_a_run(suffix: str, good: Path, mx: Mx, tmp_path: Path) -> None:
    model = pair()
    dropped(model)
    onnx.save(model, tmp_path / "bad.onnx")
    right, wrong = tmp_path / f"right{suffix}", tmp_path / f"wrong{suffix}"
    np.savez(tmp_path / "x.npz", x=np.full((2, 4), 0.5, np.float32))
    assert mx("run-values", good, "--inputs", tmp_path / "x.npz", "-o", right).returncode == 0
    assert mx("run-values", tmp_path / "bad.onnx", "--inputs", tmp_path / "x.npz", "-o", wrong).returncode == 0
    done = mx("verify", tmp_path / "bad.onnx", "--against", good, "--against-values", right, "--isolate", "--json")
    assert report(done)["culprits"] == ["act"]
    inputs = ["--inputs", tmp_path / "x.npz"]
    done = mx("verify", tmp_path / "bad.onnx", "--against", good, "--values", wrong, *inputs, "--json")
    assert (done.returncode, report(done)["first"]) == (1, "act")
    done = mx("verify", good, "--against", good, "--values", right, *inputs, "--json")
    assert (done.returncode, report(done)["first"]) == (0, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "there is nothing to compare with: give --trace SIDECAR or --against ONNX"),
        ("--against good.onnx --trace t.json", "--trace and --against both say what is right"),
        ("--trace t.json --inputs x.npz", "a trace has the inputs that were recorded with it"),
        ("--against good.onnx --bisect --isolate", "--bisect runs few modules alone, and --isolate runs all"),
        ("--against good.onnx --provider NoneExecutionProvider", "ONNX Runtime has no provider"),
        ("--against good.onnx --provider-option a=b", "options are given for no provider: give --provider too"),
        ("--against good.onnx --session-option a", "'a' is not KEY=VALUE"),
        ("--against good.onnx --command 'tool {model}'", "the command has no {outputs} among its arguments"),
        ("--against good.onnx --command 'tool {model} {outputs}' --level all", "are for ONNX Runtime only"),
        ("--trace t.json --values x.npz", "recorded values are of a run of an ONNX model"),
        ("--against good.onnx --values x.npz --bisect", "no part can be run where only values are given"),
        ("--against good.onnx --sort own-error", "give --isolate too"),
        ("--against good.onnx --inputs .", "the folder . has no .npz, .safetensors or .json file"),
    ],
)
def test_nonsense_is_refused_before_any_work(options: str, message: str, good: Path, mx: Mx, tmp_path: Path) -> None:
    done = mx("verify", "good.onnx", *shlex.split(options), cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("option", ["--bisect", "--isolate", "--metric=cosine"])
@pytest.mark.parametrize("op", ["Exp", "Transpose"])
def test_what_a_graph_does_to_the_right_result_is_wrong(mx: Mx, good: Path, op: str, option: str) -> None:
    """Nodes in no module change what the last one returned, which is right."""
    model = pair()
    node_of(model, "y").output[0] = "right"
    model.graph.node.append(helper.make_node("Neg", ["right"], ["less"]))
    model.graph.node.append(helper.make_node(op, ["less"], ["y"]))
    for node in model.graph.node[-2:]:
        for key, value in (("scope", "."), ("tag", "/M"), ("evidence", "root")):
            node.metadata_props.add(key=f"pkg.mxtools.{key}", value=value)
    if op == "Transpose":
        del model.graph.output[0].type.tensor_type.shape.dim[:]
        for size in (4, 2):
            model.graph.output[0].type.tensor_type.shape.dim.add(dim_value=size)
    bad = good.with_name("bad.onnx")
    onnx.save(model, bad)
    done = mx("verify", bad, "--against", good, option)
    assert done.returncode == 1, done.stderr.decode()
    assert b"the whole model is the first" in done.stderr or b". is the smallest module" in done.stderr


def test_nothing_that_could_be_compared_is_not_right(mx: Mx, tmp_path: Path) -> None:
    text = PAIR.partition("g (")[0] + "g (string[2] x) => (string[2] y) { y = StringConcat(x, x) }"
    model = onnx.parser.parse_model(text)
    for key, value in (("scope", "act"), ("tag", "/M/act"), ("evidence", "name")):
        model.graph.node[0].metadata_props.add(key=f"pkg.mxtools.{key}", value=value)
    onnx.save(model, tmp_path / "m.onnx")
    (tmp_path / "i.json").write_text('{"x": ["a", "b"]}')
    for options in ([], ["--bisect"]):
        done = mx("verify", "m.onnx", "--against", "m.onnx", "--inputs", "i.json", *options, cwd=tmp_path)
        assert done.returncode == 1
        assert b"no module could be compared" in done.stderr


def test_a_fused_node_that_computes_the_same_is_not_wrong(mx: Mx, tmp_path: Path) -> None:
    """What the module alone is given cannot be told from what the node takes, and its error has no effect around it."""
    plain = "m = MatMul(x, w) a = Add(m, b) p = Add(a, x) y = LayerNormalization(p, g)"
    fused = "m = MatMul(x, w) y = com.microsoft.SkipLayerNormalization <epsilon = 1e-5> (m, x, g, z, b)"
    scopes = {"m": "block.proj", "a": "block.proj", "p": "block", "y": "block.norm"}
    for name, nodes in (("good.onnx", plain), ("fused.onnx", fused)):
        model = onnx.parser.parse_model(
            f"""<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]> g (float[2, 4] x) => (float[2, 4] y)
            <float[4, 4] w = {{1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4, 5, 6, 7}}, float[4] b = {{1, 9, -1, 3}},
            float[4] g = {{1, 2, 1, 2}}, float[4] z = {{0, 0, 0, 0}}> {{ {nodes} }}"""
        )
        for node in model.graph.node:
            scope = scopes[node.output[0]]
            for key, value in (("scope", scope), ("tag", f"/M/{scope.replace('.', '/')}"), ("evidence", "name")):
                node.metadata_props.add(key=f"pkg.mxtools.{key}", value=value)
        onnx.save(model, tmp_path / name)
    for options in ([], ["--isolate"], ["--bisect"]):
        done = mx("verify", "fused.onnx", "--against", "good.onnx", *options, cwd=tmp_path)
        assert done.returncode == 0, done.stderr.decode()


def test_bisect_looks_into_a_module_that_cannot_be_cut_out(mx: Mx, tmp_path: Path) -> None:
    """What ends in a node of the next module is no part of its own, but the modules in it are."""
    plain = "p = Abs(x) m = MatMul(p, w) n = Relu(m) s = Neg(n) t = Add(s, x) y = Tanh(t)"
    fused = "p = Abs(x) m = MatMul(p, w) n = Relu(m) t = Sub(x, n) y = Tanh(t)"
    scopes = {"p": "pre", "m": "mid.fc", "n": "mid.act", "s": "mid", "t": "add", "y": "out"}
    for name, nodes, first in (("good.onnx", plain, 0.1), ("bad.onnx", fused, 0.4)):
        model = onnx.parser.parse_model(
            f"""<ir_version: 10, opset_import: ["" : 21]> g (float[2, 2] x) => (float[2, 2] y)
            <float[2, 2] w = {{{first}, 0.2, 0.3, 0.5}}> {{ {nodes} }}"""
        )
        for node in model.graph.node:
            scope = scopes[node.output[0]]
            for key, value in (("scope", scope), ("tag", f"/M/{scope.replace('.', '/')}"), ("evidence", "name")):
                node.metadata_props.add(key=f"pkg.mxtools.{key}", value=value)
            if node.op_type == "Sub":
                node.metadata_props.add(key="pkg.mxtools.merged", value='["mid", "add"]')
        onnx.save(model, tmp_path / name)
    done = mx("verify", "bad.onnx", "--against", "good.onnx", "--bisect", cwd=tmp_path)
    assert done.returncode == 1
    assert b"mid.fc is the smallest module" in done.stderr, done.stderr.decode()
