"""MODEL specs and made inputs, on real Hugging Face folders, and the export of what torch can return."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from mxtools.errors import InputError, UsageError
from mxtools.pytorch.exporting.export import export
from mxtools.pytorch.exporting.exporters import Options
from mxtools.pytorch.loading.inputs import load_subject
from mxtools.pytorch.nested import tensors
from mxtools.pytorch.sources import Sources
from mxtools.pytorch.subject import Subject
from tests.support.commands import Mx
from tests.support.folders import folder_of
from tests.support.paths import MODELS

FAMILIES = {
    "text": ("bert", "BertForSequenceClassification", {}, {"input_ids", "attention_mask", "token_type_ids"}),
    "decoder": ("gpt2", "GPT2LMHeadModel", {"n_embd": 32, "n_layer": 1, "n_head": 4}, {"input_ids", "attention_mask"}),
    "encoder-decoder": ("t5", "T5ForConditionalGeneration", {}, {"input_ids", "attention_mask", "decoder_input_ids"}),
    "vision": ("vit", "ViTForImageClassification", {"image_size": 32, "patch_size": 8}, {"pixel_values"}),
    "audio": (
        "wav2vec2",
        "Wav2Vec2ForCTC",
        {"conv_dim": (16, 16), "conv_stride": (5, 4), "conv_kernel": (10, 8), "num_conv_pos_embeddings": 16},
        {"input_values"},
    ),
    "spectrum": (
        "whisper",
        "WhisperModel",
        {"encoder_ffn_dim": 64, "decoder_ffn_dim": 64},
        {"input_features", "decoder_input_ids"},
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_inputs_are_made_from_the_configuration(tmp_path: Path, family: str) -> None:
    model_type, architecture, extra, expected = FAMILIES[family]
    folder = folder_of(tmp_path, model_type, architecture, **extra)
    subject = load_subject(str(folder))
    assert type(subject.model).__name__ == architecture
    assert set(subject.inputs) == expected
    again = load_subject(str(folder))
    assert all(torch.equal(subject.inputs[name], again.inputs[name]) for name in subject.inputs)
    with torch.no_grad():
        subject.model(**subject.inputs)


def test_given_shapes_and_files(tmp_path: Path) -> None:
    subject = load_subject(f"{MODELS}:bert", ["input_ids=2,7", "attention_mask=2x7"])
    assert subject.inputs["input_ids"].shape == (2, 7)
    assert subject.inputs["input_ids"].dtype == torch.int64
    assert bool((subject.inputs["attention_mask"] == 1).all())
    np.savez(tmp_path / "x.npz", input=np.zeros((2, 3), np.float32))
    (tmp_path / "x.json").write_text(json.dumps({"input": [[1, 2, 3]]}))
    assert load_subject(f"{MODELS}:plain", file=tmp_path / "x.npz").inputs["input"].shape == (2, 3)
    assert load_subject(f"{MODELS}:plain", file=tmp_path / "x.json").inputs["input"].dtype == torch.int64


def test_missing_and_surplus_inputs() -> None:
    with pytest.raises(UsageError, match=r"needs 'input'.*give the shape input="):
        load_subject(f"{MODELS}:plain")
    with pytest.raises(UsageError, match=r"has no parameter 'z': it takes input"):
        load_subject(f"{MODELS}:plain", ["z=1"])
    with pytest.raises(UsageError, match="NAME=SHAPE"):
        load_subject(f"{MODELS}:plain", ["input=a"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("m.pt", "m.pt contains only weights: write a FILE.py"),
        ("m.py", "m.py is a file of models: say which one: .*m.py:NAME"),
        ("m.onnx", "m.onnx is already an ONNX graph, not a PyTorch model: call `model.tag"),
        ("m.txt", "m.txt is not a model: give a Hugging Face folder"),
    ],
)
def test_files_that_are_no_models(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / name).write_text("")
    with pytest.raises(InputError, match=message):
        load_subject(str(tmp_path / name))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (r"C:\models\bert", "there is no model 'C:.*bert': give a Hugging Face folder"),
        ("C:/models/net.py:make", "there is no file C:/models/net.py"),
    ],
)
def test_a_drive_of_windows_is_no_package(spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_subject(spec)


def test_a_hub_that_is_out_of_reach(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="the hub cannot be reached, and nobody/nothing is not in its cache"):
        load_subject("nobody/nothing")


def test_names_that_are_not_there() -> None:
    with pytest.raises(InputError, match="did you mean bert"):
        load_subject(f"{MODELS}:brt")
    with pytest.raises(InputError, match=r"not a torch\.nn\.Module"):
        load_subject("os:sep")
    with pytest.raises(InputError, match="needs arguments"):
        load_subject(f"{MODELS}:Deep")


class Order(nn.Module):
    """Arguments whose order matters, one of them a list, one unused default."""

    def forward(
        self, a: torch.Tensor, flag: bool = True, parts: list[torch.Tensor] | None = None
    ) -> dict[str, torch.Tensor]:
        assert parts is not None
        return {"first": a - parts[0], "second": parts[1] * 2 if flag else a}


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_what_is_exported_computes_the_same(tmp_path: Path, exporter: str) -> None:
    inputs = {"a": torch.ones(2), "parts": [torch.full((2,), 3.0), torch.full((2,), 5.0)]}
    path = tmp_path / "m.onnx"
    assert export(Subject(Order().eval(), inputs, "t"), path, exporter).error is None
    session = onnxruntime.InferenceSession(path)
    values = [t.numpy() for _, t in tensors(inputs)]
    results = session.run(None, {i.name: v for i, v in zip(session.get_inputs(), values, strict=True)})
    assert [r.tolist() for r in results] == [[-2, -2], [10, 10]]


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_dynamic_axes_keep_their_names(mx: Mx, tmp_path: Path, exporter: str) -> None:
    path = tmp_path / "m.onnx"
    dynamic = ["--dynamic", "input_ids=0:batch,1:seq", "--dynamic", "attention_mask=0:batch,1:seq"]
    shapes = ["--input", "input_ids=2,9", "--input", "attention_mask=2,9"]
    done = mx("export", f"{MODELS}:bert", "--exporter", exporter, *dynamic, *shapes, "-o", path)
    assert done.returncode == 0, done.stderr.decode()
    dims = [d.dim_param for d in onnx.load(path).graph.input[0].type.tensor_type.shape.dim]
    assert dims == ["batch", "seq"]


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_keep_modules_folds_nothing(tmp_path: Path, exporter: str) -> None:
    subject = load_subject(f"{MODELS}:convnet")
    path = tmp_path / "m.onnx"
    export(subject, path, exporter, Options(keep_modules=True))
    assert "BatchNormalization" in {n.op_type for n in onnx.load(path).graph.node}
    assert not any(m.training for m in subject.model.modules())


class NoExport(nn.Module):
    """What neither exporter can do."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.eigvals(x).real


def test_auto_says_what_it_tried(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"dynamo: .*torchscript: .*`attempts`"):
        Sources(lambda: Subject(NoExport(), {"x": torch.eye(2)}, "t"), tmp_path).export("auto")


def test_export_is_quiet_and_leaves_the_model(mx: Mx, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    subject = load_subject(f"{MODELS}:bert")
    subject.model.train()
    subject.model.config.use_cache = True
    export(subject, tmp_path / "m.onnx", "torchscript")
    assert capfd.readouterr() == ("", "")
    assert all(m.training for m in subject.model.modules())
    assert subject.model.config.use_cache
    assert "forward" not in vars(subject.model)
    done = mx("export", f"{MODELS}:bert", "-o", tmp_path / "q.onnx")
    assert (done.stdout, done.stderr) == (b"", b"")
