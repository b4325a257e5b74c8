"""Real models: what is cut out and put back, as it was or changed by other tools, computes what it did."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks.grafts import outputs, round_trips, scopes
from mxtools.files.writing import write_model
from mxtools.passes.graft import Graft
from mxtools.pipeline.pipeline import Pipeline
from mxtools.pipeline.working_model import WorkingModel
from mxtools.pytorch.loading.inputs import load_subject
from mxtools.pytorch.nested import tensors
from mxtools.scopes import keys
from tests.support.commands import Mx, shell
from tests.support.paths import MODELS
from tests.support.shared_models import Build


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
@pytest.mark.parametrize("name", ["bert", "llama", "convnet", "repeated"])
def test_every_scope_goes_back(built: Build, tmp_path: Path, name: str, exporter: str) -> None:
    whole = tmp_path / "tagged.onnx"
    whole.write_bytes((built(name, exporter) / "tagged.onnx").read_bytes())
    feeds = {key: tensor.numpy() for key, tensor in tensors(load_subject(f"{MODELS}:{name}").inputs)}
    expected, found = outputs(whole, feeds), 0
    for scope in scopes(whole):
        for way, problem in round_trips(whole, scope, feeds, expected, tmp_path):
            assert not problem, f"{scope}, {way}"
            found += 1
    assert found >= 3 * {"bert": 30, "llama": 25, "convnet": 4, "repeated": 10}[name]


def test_a_part_that_computes_something_else_is_seen(built: Build, tmp_path: Path) -> None:
    whole, part, out = built("repeated") / "tagged.onnx", tmp_path / "part.onnx", tmp_path / "out.onnx"
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 8)).astype(np.float32)}
    loaded = WorkingModel.read(whole)
    Pipeline.parse("filter{scope=heads.main}").apply(loaded)
    next(n for n in loaded.proto.graph.node if n.op_type == "Tanh").op_type = "Sigmoid"
    write_model(loaded.proto, loaded.weights, part)
    loaded = WorkingModel.read(whole)
    Pipeline((Graft(str(part)),)).apply(loaded)
    write_model(loaded.proto, loaded.weights, out)
    was, now = outputs(whole, feeds)[0], outputs(out, feeds)[0]
    assert np.allclose(now, 1 / (1 + np.exp(-np.arctanh(was))), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "scope"), [("bert", "encoder.layer.0"), ("llama", "layers.1.mlp"), ("convnet", "stem")]
)
def test_in_a_pipe(built: Build, tmp_path: Path, name: str, scope: str) -> None:
    whole = built(name, "dynamo") / "tagged.onnx"
    for pipe in (
        f"mx filter {whole} --scope {scope} -o p.onnx && mx graft {whole} p.onnx -o out.onnx",
        f"mx filter {whole} --scope {scope} | mx graft {whole} - > out.onnx",
        f"mx filter {whole} --scope {scope} -o p.onnx && mx graft - p.onnx < {whole} > out.onnx",
        f"cat {whole} | mx graft p.onnx > out.onnx",
    ):
        done = shell(pipe, tmp_path)
        assert done.returncode == 0, done.stderr.decode()
        assert (tmp_path / "out.onnx").read_bytes() == whole.read_bytes()


def test_a_quantised_part(built: Build, mx: Mx, tmp_path: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    whole = built("bert", "dynamo") / "tagged.onnx"
    part, small, out = (tmp_path / f"{stem}.onnx" for stem in ("part", "small", "out"))
    assert mx("filter", whole, "--scope", "encoder.layer.0", "-o", part).returncode == 0
    quantize_dynamic(part, small)
    done = mx("graft", whole, small, "-o", out, "--json")
    assert done.returncode == 0, done.stderr.decode()
    report = json.loads(done.stdout)
    assert report["added"] > report["removed"] > 0
    onnx.checker.check_model(out, full_check=True)
    feeds = {key: tensor.numpy() for key, tensor in tensors(load_subject(f"{MODELS}:bert").inputs)}
    for was, now in zip(outputs(whole, feeds), outputs(out, feeds), strict=True):
        assert 0 < np.abs(was - now).max() < 0.1
    tags = {keys.props(n)[keys.SCOPE] for n in onnx.load(out).graph.node if n.op_type == "MatMulInteger"}
    assert tags
    assert all(scope.startswith("encoder.layer.0") for scope in tags)
