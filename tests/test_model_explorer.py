"""The adapter for Model Explorer: its package finds ours by name, and shows modules as layers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import onnx
import pytest

from mxtools.scopes import keys
from tests.support.shared_models import Build

pytest.importorskip("model_explorer")
pytest.importorskip("mxtools_explorer")


def converted(file: Path) -> dict[str, Any]:
    """Return what Model Explorer's server makes of a file, with the adapter that it finds by the extension's name."""
    from model_explorer.extension_manager import ExtensionManager

    manager = ExtensionManager(["mxtools_explorer"])
    manager.load_extensions()
    (found,) = (each for each in manager.get_extensions_metadata() if each["id"] == "mxtools")
    assert found["fileExts"] == ["onnx"]
    command = {"extensionId": "mxtools", "cmdId": "convert", "modelPath": str(file), "settings": {}}
    return dict(manager.run_cmd({**command, "deleteAfterConversion": False}))


@pytest.mark.parametrize("name", ["tagged.onnx", "raw.onnx"])
def test_modules_are_layers(built: Build, name: str) -> None:
    (graph,) = converted(built("trained") / name)["graphs"]
    model = onnx.load(built("trained") / "tagged.onnx")
    shown = {node["id"]: node["namespace"] for node in graph["nodes"]}
    for node in model.graph.node:
        scope = keys.props(node)[keys.SCOPE]
        if scope.startswith("encoder.layer.1.attention.self.query"):
            around = re.sub(": [^/]+", "", shown[node.name])
            assert around == "encoder/layer.1/attention/self/query"
            assert name == "raw.onnx" or ": BertEncoder/layer.1: BertLayer/" in shown[node.name]
    assert any(edge["sourceNodeId"] in shown for node in graph["nodes"] for edge in node["incomingEdges"])


def test_an_error_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"junk")
    with pytest.raises(RuntimeError, match=r"m\.onnx is a text, and no ONNX model"):
        converted(tmp_path / "m.onnx")
