"""Parts of a model, and decoders with a cache: traced, exported, tagged and compared with PyTorch."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
import torch

from mxtools.errors import UsageError
from mxtools.pytorch.exporting.axes import usual_axes
from mxtools.pytorch.exporting.exporters import axes_of
from mxtools.pytorch.loading.inputs import load_subject
from mxtools.pytorch.nested import tensors
from mxtools.scopes import keys
from tests.support.commands import Mx
from tests.support.folders import folder_of
from tests.support.paths import MODELS

DECODER = {"num_key_value_heads": 2, "num_hidden_layers": 2}


def tagged_and_verified(mx: Mx, folder: Path, into: Path, *options: str, exporter: str) -> onnx.ModelProto:
    """Trace, export, tag and verify a model with some options; return the tagged graph."""
    raw, trace, tagged = (into / name for name in ("x.onnx", "t.json", "y.onnx"))
    for arguments in (
        ("trace", folder, *options, "--record", "-o", trace),
        ("export", folder, *options, "--exporter", exporter, "-o", raw),
        ("tag", raw, "--trace", trace, "-o", tagged, "--strict"),
        ("verify", tagged, "--trace", trace, "--isolate"),
    ):
        done = mx(*arguments)
        assert done.returncode == 0, done.stderr.decode()
    return onnx.load(tagged)


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_an_encoder_is_traced_and_exported_by_itself(exporter: str, mx: Mx, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "t5", "T5ForConditionalGeneration")
    graph = tagged_and_verified(mx, folder, tmp_path, "--module", "encoder", exporter=exporter).graph
    assert [value.name for value in graph.input] == ["input_ids", "attention_mask"]
    assert [value.name for value in graph.output] == ["last_hidden_state"]
    trace = json.loads((tmp_path / "t.json").read_text())
    assert trace["model"]["class"] == "T5Stack"
    assert "block.0.layer.0.SelfAttention.q" in [call["scope"] for call in trace["calls"]]


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_a_decoder_with_past_has_the_names_of_the_ecosystem(exporter: str, mx: Mx, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "llama", "LlamaForCausalLM", **DECODER)
    model = tagged_and_verified(mx, folder, tmp_path, "--with-past", exporter=exporter)
    cached = [f"{layer}.{kind}" for layer in (0, 1) for kind in ("key", "value")]
    past = [f"past_key_values.{name}" for name in cached]
    assert [value.name for value in model.graph.input] == ["input_ids", "attention_mask", "position_ids", *past]
    assert [value.name for value in model.graph.output] == ["logits", *(f"present.{name}" for name in cached)]
    step = {0: "batch", 1: "sequence"}
    assert axes_of(model) == {
        "input_ids": step,
        "attention_mask": {0: "batch", 1: "past_sequence + sequence"},
        "position_ids": step,
        **{name: {0: "batch", 2: "past_sequence"} for name in past},
    }
    outputs = json.loads((tmp_path / "t.json").read_text())["calls"][0]["outputs"]
    assert [tensor["name"] for tensor in outputs] == [value.name for value in model.graph.output]
    makers = {name: keys.props(node)[keys.SCOPE] for node in model.graph.node for name in node.output}
    assert {name: makers[f"present.{name}"] for name in cached} == {
        name: f"model.layers.{name[0]}.self_attn" for name in cached
    }


def test_a_decoder_whose_encoder_has_run(mx: Mx, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "t5", "T5ForConditionalGeneration")
    graph = tagged_and_verified(mx, folder, tmp_path, "--with-past", exporter="torchscript").graph
    sides = [f"0.{side}.{kind}" for side in ("decoder", "encoder") for kind in ("key", "value")]
    assert {value.name for value in graph.input} == {
        "input_ids",
        "encoder_attention_mask",
        "encoder_hidden_states",
        *(f"past_key_values.{name}" for name in sides),
    }
    assert [value.name for value in graph.output] == ["logits", "present.0.decoder.key", "present.0.decoder.value"]


def test_the_step_is_what_the_whole_computes_for_its_last_tokens(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "llama", "LlamaForCausalLM", **DECODER)
    subject, whole = load_subject(str(folder), past=True), load_subject(str(folder))
    ids = torch.cat([whole.inputs["input_ids"], subject.inputs["input_ids"]], 1)
    with torch.no_grad():
        step = subject.model(**subject.interface.arguments(subject.inputs)).logits
        wanted = whole.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, -step.shape[1] :]
    assert torch.allclose(step, wanted, atol=1e-5)


def test_axes_of_a_part_are_found_by_running_the_whole(tmp_path: Path) -> None:
    folder = str(folder_of(tmp_path, "t5", "T5ForConditionalGeneration"))
    assert usual_axes(load_subject(folder, module="decoder"), waves=True) == {
        "input_ids": {0: "batch", 1: "decoder_sequence"},
        "encoder_hidden_states": {0: "batch", 1: "sequence"},
        "encoder_attention_mask": {0: "batch", 1: "sequence"},
    }


def test_a_part_is_given_what_the_whole_calls_it_with(tmp_path: Path) -> None:
    folder = str(folder_of(tmp_path, "llama", "LlamaForCausalLM", **DECODER))
    subject = load_subject(folder, module="model.layers.1", past=True)
    assert type(subject.model).__name__ == "LlamaDecoderLayer"
    names = [name for name, _ in tensors(subject.inputs)]
    assert {"hidden_states", "position_embeddings.0", "past_key_values.1.key"} <= set(names)
    with torch.no_grad():
        first = subject.model(**subject.interface.arguments(subject.inputs))
        again = subject.model(**subject.interface.arguments(subject.inputs))
    assert torch.equal(*(next(iter(dict(tensors(result)).values())) for result in (first, again)))


def test_parts_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has no module 'encoder\.layers\.0': did you mean encoder\.layer\.0"):
        load_subject(f"{MODELS}:bert", module="encoder.layers.0")
    with pytest.raises(UsageError, match=r"does not call 'encoder\.layer', a ModuleList"):
        load_subject(f"{MODELS}:bert", module="encoder.layer")
    with pytest.raises(UsageError, match="takes no cache"):
        load_subject(f"{MODELS}:plain", ["input=1,3"], past=True)
    with pytest.raises(UsageError, match="does not return a cache"):
        load_subject(f"{MODELS}:bert", past=True)
