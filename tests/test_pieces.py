"""A graph in pieces: together they compute what the whole does, and what ONNX Runtime says of the whole is reported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, helper, numpy_helper, parser

import mxtools
from mxtools.errors import InputError
from mxtools.files.weights import WeightStore
from mxtools.graph.index import Graph
from mxtools.graph.shapes import inferred_infos
from mxtools.runtime import pieces
from mxtools.runtime.sessions import run_model
from tests.support import cuts
from tests.support.shared_models import Build

SPARSE = helper.make_sparse_tensor(
    numpy_helper.from_array(np.array([5.0], np.float32), "v"), numpy_helper.from_array(np.array([1]), "i"), [2]
)
FUNCTION = (
    cuts.HEAD
    + """ g (float[2] x) => (float[2] y, float[2] b) {
        s = Constant <value = int64[1] {2}> ()
        a = own.Twice(x)
        b = Add(a, v)
        c = Reshape(b, s)
        d = Mul(x, c)
        y = Reshape(d, s)
    }
    <domain: "own", opset_import: ["" : 21]> Twice (p) => (q) { q = Add(p, p) }"""
)


def models() -> dict[str, ModelProto]:
    with_function = parser.parse_model(FUNCTION)
    with_function.graph.sparse_initializer.append(SPARSE)
    return {"bodies": parser.parse_model(cuts.HEAD + cuts.NESTED), "a function": with_function}


def in_turn(model: ModelProto, weights: WeightStore, feeds: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Run the pieces one after the other; return how many there are, and all that they make."""
    values, count = dict(feeds), 0
    for piece in pieces.pieces(model, Graph(model), inferred_infos(model)):
        values |= run_model(piece, weights, {value.name: values[value.name] for value in piece.graph.input})
        count += 1
    return count, values


@pytest.mark.parametrize("name", models())
@pytest.mark.parametrize("size", [1, 2, 3])
def test_pieces_compute_what_the_whole_does(monkeypatch: pytest.MonkeyPatch, name: str, size: int) -> None:
    monkeypatch.setattr(pieces, "SIZE", size)
    model = models()[name]
    draws = {"x": np.array([1.0, -2.0], np.float32), "c": np.array(True), "d": np.array(False)}
    feeds = {value.name: draws[value.name] for value in model.graph.input}
    count, found = in_turn(model, WeightStore(), feeds)
    assert count == -(-len(model.graph.node) // size)
    for output, wanted in run_model(model, WeightStore(), feeds).items():
        np.testing.assert_array_equal(found[output], wanted)


def test_pieces_of_a_small_bert(monkeypatch: pytest.MonkeyPatch, built: Build) -> None:
    monkeypatch.setattr(pieces, "SIZE", 50)
    model = mxtools.load(built("bert") / "tagged.onnx")
    feeds = dict(model.inputs())
    count, found = in_turn(model.proto, model.weights, feeds)
    assert count > 3
    for output, wanted in run_model(model.proto, model.weights, feeds).items():
        np.testing.assert_array_equal(found[output], wanted)


def test_a_boundary_without_a_type_is_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "SIZE", 1)
    model = models()["bodies"]
    assert list(pieces.pieces(model, Graph(model), {})) == [model]


def test_what_the_runtime_refuses_is_found_in_pieces_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pieces, "SIZE", 2)
    text = """ g (bfloat16[2] x) => (bfloat16[2] y) { a = Identity(x) b = Identity(a) c = Identity(b) y = Cos(c) }"""
    onnx.save(parser.parse_model(cuts.HEAD.replace("21", "22") + text), tmp_path / "m.onnx")
    finding = next(f for f in mxtools.load(tmp_path / "m.onnx").validate() if f.rule == "runtime")
    assert "Cos" in finding.reason


def test_a_failure_is_not_tried_again_on_another_provider(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """ONNX Runtime's own retry prints to stdout, where results go, and answers for a provider that nobody asked for."""
    tried: list[object] = []

    def fails(_: object, *args: object) -> None:
        tried.append(args)
        raise ValueError("no such device")

    monkeypatch.setattr(onnxruntime.InferenceSession, "_create_inference_session", fails)
    model = parser.parse_model('<ir_version: 8, opset_import: ["": 17]> g (float[1] x) => (float[1] y) { y = Abs(x) }')
    with pytest.raises(InputError, match="no such device"):
        run_model(model, WeightStore(), {"x": np.zeros(1, np.float32)})
    assert (len(tried), capsys.readouterr().out) == (1, "")
