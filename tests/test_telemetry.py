"""ONNX Runtime sends nothing about its user: telemetry is switched off before any session is made."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from mxtools.files.weights import WeightStore
from mxtools.runtime import session_values, sessions
from tests.support.paths import ROOT


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Return what ONNX Runtime is told to do, in order, by a process that has not used it yet."""
    seen: list[str] = []
    made = onnxruntime.InferenceSession

    def session(*given: Any, **named: Any) -> Any:
        seen.append("session")
        return made(*given, **named)

    monkeypatch.setattr(onnxruntime, "disable_telemetry_events", lambda: seen.append("telemetry off"))
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    session_values.onnx_runtime.cache_clear()
    yield seen
    session_values.onnx_runtime.cache_clear()


def run() -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", [x], [y])
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)])
    outputs = sessions.run_model(model, WeightStore(), {"x": np.ones(2, np.float32)})
    assert outputs["y"].tolist() == [-1.0, -1.0]


def test_it_is_off_before_the_first_session(events: list[str]) -> None:
    run()
    run()
    assert events == ["telemetry off", "session", "session"]


def test_a_runtime_without_that_switch_is_used_all_the_same(events: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(onnxruntime, "disable_telemetry_events")
    run()
    assert events == ["session"]


def test_the_installed_runtime_has_the_switch() -> None:
    onnxruntime.disable_telemetry_events()


def imports(file: Path) -> Iterator[str]:
    """Yield the modules that a file imports."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield (node.module or "").partition(".")[0]


def test_nothing_else_imports_the_runtime() -> None:
    files = [file for folder in ("mxtools", "cli") for file in (ROOT / folder).rglob("*.py")]
    found = [file.relative_to(ROOT) for file in files if "onnxruntime" in imports(file)]
    recipes = Path("mxtools/tuning/steps.py")  # which is copied into programs that run without mxtools
    assert set(found) == {Path("mxtools/runtime/session_values.py"), recipes}
    assert "onnx_runtime()" in (ROOT / "mxtools/tuning/workshop.py").read_text(), "telemetry is off before steps run"
