"""`mx compare` on real models: renamed, changed, exported otherwise, quantised by ONNX Runtime."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto
from onnxruntime.quantization import quantize_static

from mxtools.graph.functions import every_node
from mxtools.scopes import keys
from mxtools.scopes.scope import contains
from tests.support.calibration import Calibration
from tests.support.commands import Mx
from tests.support.paths import ROOT
from tests.support.renaming import renamed
from tests.support.shared_models import Build


def report(mx: Mx, *arguments: Any) -> dict[str, Any]:
    done = mx("compare", *arguments, "--json")
    assert done.returncode in (0, 1), done.stderr.decode()
    found = json.loads(done.stdout)
    assert found["differ"] == bool(done.returncode)
    return {module["scope"]: module for module in found["modules"] if module["differs"]}


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_a_model_and_itself_under_other_names(built: Build, mx: Mx, tmp_path: Path, exporter: str) -> None:
    tagged = built("repeated", exporter) / "tagged.onnx"
    other = renamed(onnx.load(tagged))
    onnx.save(other, tmp_path / "other.onnx")
    done = mx("compare", tagged, tmp_path / "other.onnx")
    assert (done.returncode, done.stdout) == (0, b""), done.stdout.decode()
    assert b"no difference in" in done.stderr
    done = mx("compare", tagged, stdin=tagged.read_bytes())
    assert done.returncode == 0
    tensor = max(other.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    tensor.raw_data = tensor.raw_data[:-1] + bytes([tensor.raw_data[-1] ^ 1])
    reading = {keys.props(n)[keys.SCOPE] for n in every_node(other.graph.node) if tensor.name in n.input}
    onnx.save(other, tmp_path / "other.onnx")
    assert {s: m["differs"] for s, m in report(mx, tagged, tmp_path / "other.onnx").items()} == {
        scope: ["weights"] for scope in reading
    }


def weighing(model: ModelProto, but: str) -> set[str]:
    """Return the scopes of the nodes that use matrices, outside of a module."""
    matrices = {tensor.name for tensor in model.graph.initializer if tensor.data_type == 1 and len(tensor.dims) == 2}
    scopes = {keys.props(n)[keys.SCOPE] for n in model.graph.node if matrices.intersection(n.input)}
    return {scope for scope in scopes if not contains(but, scope)}


def test_the_example_shows_what_was_quantised(built: Build, mx: Mx, tmp_path: Path) -> None:
    """Exactly the modules with matrices outside of the excluded one, and what is between modules."""
    tagged, result, but = built("trained") / "tagged.onnx", tmp_path / "mixed.onnx", "encoder.layer.1"
    script = ["sh", ROOT / "examples" / "quantise_but.sh", tagged, but, result]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(script, capture_output=True, text=True, check=False, env={**os.environ, "PATH": path})
    assert done.returncode == 0, done.stderr
    assert "MatMulInteger" in done.stdout
    found = report(mx, tagged, result)
    assert not [scope for scope in found if contains(but, scope)]
    quantised = {s for s, m in found.items() if {"MatMulInteger", "DequantizeLinear"} & m["operators"].keys()}
    assert quantised == weighing(onnx.load(tagged), but)
    assert {scope for scope in found if found[scope]["weights"]} == quantised
    between = {scope: set(found[scope]["operators"]) for scope in found.keys() - quantised}
    assert all(operators == {"DynamicQuantizeLinear"} for operators in between.values())


@pytest.mark.parametrize(
    ("name", "exporter", "but"),
    [("trained", "torchscript", "encoder.layer.1"), ("deep", "dynamo", "layers.7")],
)
def test_static_quantisation(built: Build, mx: Mx, tmp_path: Path, name: str, exporter: str, but: str) -> None:
    """What is converted between modules is in neither; a Relu after a Gemm is done by its output's conversion."""
    tagged, result = built(name, exporter) / "tagged.onnx", tmp_path / "qdq.onnx"
    chosen = json.loads(mx("select", tagged, "--scope", but, "--format", "ort-quant").stdout)
    quantize_static(tagged, result, Calibration(tagged), **chosen)
    assert mx("tag", result, "--from", tagged, "-o", result).returncode == 0
    found = report(mx, tagged, result)
    assert not [scope for scope in found if contains(but, scope)]
    changed = {s for s, m in found.items() if "DequantizeLinear" in m["operators"] or m.get("reason") == "merged: ."}
    assert weighing(onnx.load(tagged), but) <= changed
    np.savez(tmp_path / "inputs.npz", **next(Calibration(tagged).feeds))
    numbers = report(mx, tagged, result, "--inputs", tmp_path / "inputs.npz")
    assert "numbers" in numbers["."]["differs"]
    assert 0 < numbers["."]["numbers"][0]["relative"] < 1
    assert numbers[but]["differs"] == ["numbers"]
    halved = report(mx, tagged, result, "--inputs", tmp_path / "inputs.npz", "--tolerance", "1")
    assert {scope: module["differs"] for scope, module in halved.items()} == {s: m["differs"] for s, m in found.items()}


def test_reports(built: Build, mx: Mx, recorded: Callable[[str], Path], tmp_path: Path) -> None:
    tagged = built("repeated") / "tagged.onnx"
    other = onnx.load(tagged)
    node = next(node for node in other.graph.node if node.op_type == "Tanh")
    node.op_type = "Sigmoid"
    onnx.save(other, tmp_path / "other.onnx")
    done = mx("compare", tagged, tmp_path / "other.onnx")
    assert done.returncode == 1
    assert "+1 Sigmoid; -1 Tanh" in done.stdout.decode()
    assert "layer" not in done.stdout.decode()
    assert done.stderr.decode().count("\n") == 1
    done = mx("compare", tagged, tmp_path / "other.onnx", "--markdown")
    lines = done.stdout.decode().splitlines()
    assert lines[1] == "| --- | --- | ---: | --- |"
    assert {line.count("|") for line in lines} == {5}
    trace = recorded("repeated")
    done = mx("compare", tagged, built("repeated", "dynamo") / "tagged.onnx", "--trace", trace, "--json")
    numbers = [number for module in json.loads(done.stdout)["modules"] for number in module["numbers"]]
    assert len(numbers) > 5
    assert max(number["relative"] for number in numbers) < 1e-5
    assert mx("compare", "-", "-").returncode == 2
    assert mx("compare", tagged, built("repeated") / "raw.onnx").returncode == 3
