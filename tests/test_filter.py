"""Cutting out: the parts run and compute what PyTorch's modules computed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from mxtools.errors import AbsentError, UsageError
from tests.support import running
from tests.support.commands import Mx
from tests.support.paths import MODELS
from tests.support.shared_models import Build
from tests.support.small_graphs import BODIES, SHARED, cut, tagged
from tests.support.whole_runs import returned_by_module


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
@pytest.mark.parametrize(
    ("name", "scopes"),
    [
        ("bert", [".", "encoder", "encoder.layer.0", "encoder.layer.1.attention", "embeddings", "pooler"]),
        ("llama", ["layers.0", "layers.1.mlp", "layers.0.self_attn", "layers.1.input_layernorm", "norm"]),
        ("convnet", ["stem", "stem.1", "head"]),
        ("repeated", ["layer", "layer.0", "heads.main"]),
        ("outputs", ["a", "b"]),
    ],
)
def test_module_round_trip(built: Build, mx: Mx, tmp_path: Path, name: str, scopes: list[str], exporter: str) -> None:
    folder = built(name, exporter)
    returned, feeds = returned_by_module(f"{MODELS}:{name}")
    values = running.values(onnx.load(folder / "tagged.onnx"), feeds)
    for scope in scopes:
        part = tmp_path / "part.onnx"
        done = mx("filter", folder / "tagged.onnx", "--scope", scope, "-o", part)
        assert done.returncode == 0, done.stderr.decode()
        onnx.checker.check_model(part, full_check=True)
        results = list(running.outputs(part, values).values())
        assert results, scope
        for result in results:
            close = [
                w
                for w in returned[scope]
                if w.size == result.size and np.allclose(result.ravel(), w.ravel(), 1e-3, 1e-4)
            ]
            assert close, f"{scope} returns something else than PyTorch's module"


def test_the_last_line_says_how_the_size_changed(built: Build, mx: Mx, tmp_path: Path) -> None:
    tagged = built("bert", "torchscript") / "tagged.onnx"
    whole, part = onnx.load(tagged), tmp_path / "part.onnx"
    for line in ("filter --scope pooler", "run -p filter{scope=pooler}"):
        command, *options = line.split()
        done = mx(command, tagged, *options, "-o", part)
        said = re.fullmatch(rf"mx {command}: nodes (\d+) → (\d+), weights .*B → .*B\n", done.stderr.decode())
        assert said, done.stderr.decode()
        assert [*map(int, said.groups())] == [len(whole.graph.node), len(onnx.load(part).graph.node)]


def keys_of(file: Path) -> set[str]:
    """Return the keys of the metadata of a model's nodes."""
    return {entry.key for node in onnx.load(file).graph.node for entry in node.metadata_props}


@pytest.mark.model
def test_a_saved_case_runs_without_mxtools_and_tells_right_from_wrong(built: Build, mx: Mx, tmp_path: Path) -> None:
    """Its script says that the part is right, and that it is wrong when a weight of it has changed."""
    case = tmp_path / "case"
    folder = built("bert", "dynamo")
    assert [key for key in keys_of(folder / "tagged.onnx") if "stack_trace" in key]
    line = ["filter", folder / "tagged.onnx", "--scope", "encoder.layer.1", "--io", "module"]
    line += ["--trace", folder / "trace.json", "--save-case", case]
    done = mx(*line)
    assert done.returncode == 0, done.stderr
    assert f"python {case}/run.py" in done.stderr.decode()
    assert "hidden_states" in (case / "README.md").read_text()

    def ran() -> subprocess.CompletedProcess[str]:
        alone = "import runpy, sys; sys.modules['mxtools'] = None; del sys.argv[0]; "
        run = [sys.executable, "-c", f"{alone}runpy.run_path(sys.argv[0], run_name='__main__')", case / "run.py"]
        return subprocess.run(run, capture_output=True, text=True, check=False)

    assert not [key for key in keys_of(case / "part.onnx") if "stack_trace" in key], "lines and paths of source code"
    right = ran()
    assert (right.returncode, right.stderr) == (0, "")
    part = onnx.load(case / "part.onnx")
    for weight in (w for w in part.graph.initializer if len(w.dims) == 2):
        weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * 2, weight.name))
    onnx.save(part, case / "part.onnx")
    wrong = ran()
    assert (wrong.returncode, wrong.stderr) == (1, "")
    assert float(wrong.stdout.split(" of the largest")[0].split()[-1]) > 1e-3
    again = mx(*line)
    assert again.returncode == 3
    assert b"is not empty: give the name of a new one" in again.stderr
    assert mx(*line[:-1], tmp_path / "other", "-o", tmp_path / "p.onnx").returncode == 2
    assert not (tmp_path / "other").exists()


def test_a_case_holds_only_what_numpy_files_can_hold(mx: Mx, tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["" : 21]> g (float[2] x) => (float[2] y) {
        h = Cast <to = 16> (x)
        y = Cast <to = 1> (h)
    }"""
    for number, name in ((16, "bfloat16"), (8, "string")):
        onnx.save(onnx.parser.parse_model(text.replace("16", str(number))), tmp_path / "m.onnx")
        done = mx("filter", tmp_path / "m.onnx", "--from-tensor", "h", "--save-case", tmp_path / "case")
        assert done.returncode == 2
        assert f"numpy's files cannot hold 'h', which is {name}[2]".encode() in done.stderr
        assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_constants_are_copied_in_and_the_rest_left_out() -> None:
    part = cut(tagged(SHARED, {"a": "m", "b": "m"}), scope=("m",))
    assert [n.output[0] for n in part.graph.node] == ["k", "kk", "a", "b"]
    assert [i.name for i in part.graph.initializer] == ["w"]
    assert [i.name for i in part.graph.input] == ["x"]
    assert [o.name for o in part.graph.output] == ["b"]


def test_constants_that_another_module_computed_are_given() -> None:
    for scope in (".", "other"):
        part = cut(tagged(SHARED, {"kk": scope, "a": "m", "b": "m"}), scope=("m",))
        assert [n.output[0] for n in part.graph.node] == ["a", "b"]
        assert [i.name for i in part.graph.input] == ["x", "kk"]


def test_shape_chains_are_copied_in_when_their_tensor_is_at_hand() -> None:
    part = cut(tagged(SHARED, {"r": "m"}), scope=("m",))
    assert [n.output[0] for n in part.graph.node] == ["s", "r"]
    assert [i.name for i in part.graph.input] == ["b"]


def test_shapes_whose_tensor_is_not_at_hand_are_inputs() -> None:
    part = cut(tagged(SHARED, {"e": "m"}), scope=("m",))
    assert [i.name for i in part.graph.input] == ["s", "r"] or [i.name for i in part.graph.input] == ["r", "s"]
    assert [n.output[0] for n in part.graph.node] == ["e"]


def test_symbolic_dimensions_keep_their_names() -> None:
    part = cut(tagged(SHARED, {"a": "m", "b": "m"}), scope=("m",))
    for value in (*part.graph.input, *part.graph.output):
        assert [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim] == ["N", 4]


def test_everything_is_the_whole_model() -> None:
    model = tagged(SHARED, {"a": "m"})
    nodes = [n.SerializeToString() for n in model.graph.node]
    part = cut(model, scope=(".",))
    assert [n.SerializeToString() for n in part.graph.node] == nodes
    assert [o.name for o in part.graph.output] == ["y"]


def test_what_bodies_capture_is_an_input_or_comes_along() -> None:
    part = cut(tagged(BODIES, {"b": "m"}), scope=("m",))
    assert {i.name for i in part.graph.input} == {"c", "x", "a"}
    assert [i.name for i in part.graph.initializer] == ["w"]


def test_functions_that_are_used_come_along() -> None:
    model = tagged(
        """<ir_version: 10, opset_import: ["" : 21, "own" : 1]> g (float[2] x) => (float[2] y) {
            a = own.outer(x)
            y = own.other(a)
        }
        <domain: "own", opset_import: ["" : 21, "own" : 1]> outer (p) => (q) { q = own.inner(p) }
        <domain: "own", opset_import: ["" : 21]> inner (p) => (q) { q = Neg(p) }
        <domain: "own", opset_import: ["" : 21]> other (p) => (q) { q = Abs(p) }""",
        {"a": "m"},
    )
    part = cut(model, scope=("m",))
    assert sorted(f.name for f in part.functions) == ["inner", "outer"]


def test_operators_and_exclusions() -> None:
    part = cut(tagged(SHARED, {"a": "m", "b": "m.n"}), scope=("m",), op=("Add",))
    assert [n.output[0] for n in part.graph.node] == ["b"]
    part = cut(tagged(SHARED, {"a": "m", "b": "m.n"}), scope=("m",), exclude=("m.n",))
    assert [n.output[0] for n in part.graph.node] == ["k", "kk", "a"]


def test_what_is_absent_says_why() -> None:
    model = tagged(SHARED, {"a": "m"}, {"gone.bn": "merged: m", "gone.drop": "vacuous"})
    with pytest.raises(AbsentError, match="it is merged into m"):
        cut(model, scope=("gone.bn",))
    with pytest.raises(AbsentError, match="returns what it was given, at most reshaped"):
        cut(model, scope=("gone.drop",))


@pytest.mark.parametrize(
    "options", [{"scope": ("mm",)}, {"tag": ("/x",)}, {"class_": ("Y",)}, {"scope": ("m",), "op": ("Z",)}, {}]
)
def test_nothing_selected(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        cut(tagged(SHARED, {"a": "m"}), **options)
