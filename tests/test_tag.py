"""Projection: every node of real exports gets the right scope."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnxruntime
import pytest

from mxtools.graph.index import bodies
from mxtools.scopes import keys
from tests.support.commands import Mx
from tests.support.shared_models import Build

EXPORTERS = ("torchscript", "dynamo")


def all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for body in bodies(node):
            yield from all_nodes(body)


def scopes(path: Path) -> dict[str, str]:
    """Return the scope of each node by its first output."""
    return {n.output[0]: keys.props(n)[keys.SCOPE] for n in all_nodes(onnx.load(path).graph)}


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", ["bert", "llama", "convnet", "repeated", "outputs", "deep"])
def test_every_node_has_a_scope_of_the_trace(built: Build, name: str, exporter: str) -> None:
    folder = built(name, exporter)
    trace = json.loads((folder / "trace.json").read_text())
    tags = {call["scope"]: call["tag"] for call in trace["calls"]}
    for node in all_nodes(onnx.load(folder / "tagged.onnx").graph):
        props = keys.props(node)
        assert tags[props[keys.SCOPE]] == props[keys.TAG]
        assert props[keys.EVIDENCE] in {"metadata", "name", "parameter", "dataflow"}


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_nothing_but_metadata_changes(built: Build, exporter: str) -> None:
    folder = built("bert", exporter)
    raw, tagged = onnx.load(folder / "raw.onnx"), onnx.load(folder / "tagged.onnx")
    for node in tagged.graph.node:
        keys.replace_props(node, keys.NODE_KEYS, {})
    keys.replace_props(tagged, keys.MODEL_KEYS, {})
    raw.ir_version = tagged.ir_version
    assert raw == tagged
    onnx.checker.check_model(onnx.load(folder / "tagged.onnx"), full_check=True)
    onnxruntime.InferenceSession(folder / "tagged.onnx")


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_layers_are_never_mixed_up(built: Build, exporter: str) -> None:
    folder = built("deep", exporter)
    model = onnx.load(folder / "tagged.onnx")
    gemms = [n for n in model.graph.node if n.op_type in ("Gemm", "MatMul")]
    assert [keys.props(n)[keys.SCOPE] for n in gemms] == [f"layers.{i}" for i in range(48)]


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_repeated_calls_have_a_scope_each(built: Build, exporter: str) -> None:
    model = onnx.load(built("repeated", exporter) / "tagged.onnx")
    gemms = [keys.props(n)[keys.SCOPE] for n in model.graph.node if n.op_type in ("Gemm", "MatMul")]
    assert gemms == ["layer.0", "layer@1.0", "layer@2.0", "heads.main.0.0"]


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_folded_batch_normalisation(built: Build, exporter: str, mx: Mx, tmp_path: Path) -> None:
    folder = built("convnet", exporter)
    model = onnx.load(folder / "tagged.onnx")
    conv = next(n for n in model.graph.node if n.op_type == "Conv")
    assert keys.props(conv)[keys.SCOPE] == "stem.1"
    assert json.loads(keys.props(conv)[keys.MERGED]) == ["stem.0", "stem.1"]
    assert json.loads(keys.props(model)[keys.ABSENT]) == {"stem.0": "merged: stem.1"}
    done = mx("filter", folder / "tagged.onnx", "--scope", "stem.0", "-o", tmp_path / "x.onnx")
    assert done.returncode == 4
    assert b"it is merged into stem.1" in done.stderr


def test_tagging_again_changes_nothing(built: Build, mx: Mx, tmp_path: Path) -> None:
    folder = built("bert")
    done = mx("tag", folder / "tagged.onnx", "--trace", folder / "trace.json", "-o", tmp_path / "again.onnx")
    assert done.returncode == 0
    assert (tmp_path / "again.onnx").read_bytes() == (folder / "tagged.onnx").read_bytes()


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_without_a_trace_the_file_itself_tells(built: Build, mx: Mx, tmp_path: Path, exporter: str) -> None:
    folder = built("bert", exporter)
    assert mx("tag", folder / "raw.onnx", "-o", tmp_path / "alone.onnx").returncode == 0
    alone, traced = scopes(tmp_path / "alone.onnx"), scopes(folder / "tagged.onnx")
    direct = {
        n.output[0]
        for n in onnx.load(folder / "tagged.onnx").graph.node
        if keys.props(n)[keys.EVIDENCE] in ("name", "metadata")
    }
    assert len(direct) > 50
    assert {o for o in direct if alone[o] != traced[o]} == set()


def test_sidecar_of_another_model_is_refused(built: Build, mx: Mx, tmp_path: Path) -> None:
    other = built("llama") / "trace.json"
    done = mx("tag", built("bert") / "raw.onnx", "--trace", other, "-o", tmp_path / "x.onnx")
    assert done.returncode == 3
    assert b"another model" in done.stderr
    assert done.stderr.count(b"\n") == 1
    assert not (tmp_path / "x.onnx").exists()


def test_report(built: Build, mx: Mx, tmp_path: Path) -> None:
    folder = built("bert")
    done = mx("tag", folder / "raw.onnx", "--trace", folder / "trace.json", "-o", tmp_path / "x.onnx", "--json")
    report = json.loads(done.stdout)
    assert report["nodes"] == sum(report["evidence"].values()) == len(onnx.load(folder / "raw.onnx").graph.node)
