"""Tracing: calls, scopes, tensors; and that it leaves no trace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM, BertModel

from mxtools.errors import InputError
from mxtools.files.limits import LimitError
from mxtools.pytorch.fingerprint import BLOCK, fingerprint
from mxtools.pytorch.loading.inputs import load_subject
from mxtools.pytorch.loading.specs import load_model
from mxtools.pytorch.subject import Subject
from mxtools.pytorch.tracing import trace
from mxtools.traces import sidecar
from tests.support.commands import Mx
from tests.support.paths import MODELS


def traced(model: nn.Module, **inputs: Any) -> dict[str, sidecar.Call]:
    return {call.scope: call for call in trace(Subject(model, inputs, "test")).calls}


class Tied(nn.Module):
    """Two owners of one embedding, which is also called by a module that does not own it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Module()
        self.encoder.embed = nn.Embedding(5, 4)
        self.decoder = nn.Module()
        self.decoder.embed = self.encoder.embed
        self.user = _User()
        self.user.borrowed = [self.encoder.embed]

    def forward(self, ids: Tensor) -> Tensor:
        return self.decoder.embed(ids) + self.user(ids)


class _User(nn.Module):
    def forward(self, ids: Tensor) -> Tensor:
        return self.borrowed[0](ids)


def test_scopes_of_tied_and_borrowed_modules() -> None:
    calls = traced(Tied(), ids=torch.tensor([1, 2]))
    assert list(calls) == [".", "encoder.embed", "user", "user.encoder.embed"]
    modules = {m.path: m for m in trace(Subject(Tied(), {"ids": torch.tensor([1])}, "t")).modules}
    assert modules["encoder.embed"].aliases == ("decoder.embed",)


class Catching(nn.Module):
    """A parent that survives the exception of a child."""

    def __init__(self) -> None:
        super().__init__()
        self.bad = _Raising()
        self.good = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        try:
            x = self.bad(x)
        except ValueError:
            x = self.good(x)
        return self.good(x)


class _Raising(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        raise ValueError(float(self.inner(x).sum()))


def test_a_child_that_raises_does_not_confuse_the_stack() -> None:
    calls = traced(Catching(), x=torch.ones(1, 2))
    assert list(calls) == [".", "bad", "bad.inner", "good", "good@1"]
    assert calls["good"].parent == calls["good@1"].parent == 0


def test_odd_names_are_escaped() -> None:
    model = nn.Sequential()
    model.add_module("a@b/c%", nn.Identity())
    assert "a%40b%2Fc%25" in traced(model, input=torch.ones(1))


def test_tensors_have_names_ids_and_fingerprints() -> None:
    subject = load_subject(f"{MODELS}:outputs")
    calls = {call.scope: call for call in trace(subject).calls}
    assert [t.name for t in calls["."].inputs] == ["x", "y"] or [t.name for t in calls["."].inputs] == ["y", "x"]
    assert [t.name for t in calls["."].outputs] == ["total", "parts.each.0", "parts.each.1"]
    assert calls["a"].outputs[0].id == calls["."].outputs[1].id
    assert calls["a"].inputs[0].name == "input"
    count, low, high, total, squares = calls["a"].inputs[0].fingerprint or ()
    assert (count, low, high, total, squares) == (6, 1.0, 1.0, 6.0, 6.0)


def test_a_change_in_place_is_another_tensor() -> None:
    calls = traced(nn.Sequential(nn.Linear(2, 2), nn.ReLU(inplace=True)), input=-torch.ones(1, 2))
    assert calls["1"].inputs[0].id != calls["1"].outputs[0].id


def test_it_leaves_no_trace() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    model.train()
    model[0].eval()
    seen: list[int] = []
    own = model.register_forward_hook(lambda *_: seen.append(1))
    random, x = torch.get_rng_state(), torch.ones(1, 2)
    trace(Subject(model, {"input": x}, "t"))
    assert seen == [1]
    assert [m.training for m in model.modules()] == [True, False, True]
    assert torch.equal(random, torch.get_rng_state())
    assert torch.is_grad_enabled()
    assert list(model._forward_hooks) == [own.id]
    assert not any(m._forward_pre_hooks or (m is not model and m._forward_hooks) for m in model.modules())


def test_hooks_are_removed_when_forward_raises() -> None:
    subject = load_subject(f"{MODELS}:failing")
    with pytest.raises(InputError, match=r"no good input: \(2,\).*models\.py:\d+"):
        trace(subject)
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in subject.model.modules())


def test_the_same_trace_twice() -> None:
    subject = load_subject(f"{MODELS}:bert")
    assert sidecar.dumps(trace(subject)) == sidecar.dumps(trace(subject))


def test_weights_and_ties() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(2, 3))
    model[1].weight = model[0].weight
    modules = {m.path: m for m in trace(Subject(_First(model), {"x": torch.ones(1, 2)}, "t")).modules}
    first, second = modules["both.0"].weights, modules["both.1"].weights
    assert (first[0].name, first[0].shape, first[0].tied) == ("weight", (3, 2), None)
    assert second[0].tied == "both.0.weight"


class _First(nn.Module):
    def __init__(self, both: nn.Module) -> None:
        super().__init__()
        self.both = both

    def forward(self, x: Tensor) -> Tensor:
        return self.both[0](x) + self.both[1](x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool])
def test_fingerprints(dtype: torch.dtype) -> None:
    values = (torch.arange(BLOCK + 7) % 13 - (0 if dtype in (torch.uint8, torch.bool) else 5)).to(dtype)
    exact = values.double()
    found = fingerprint(values)
    assert found is not None
    assert found[:3] == (values.numel(), exact.min().item(), exact.max().item())
    assert found[3] == pytest.approx(exact.sum().item(), rel=1e-6)
    assert found[4] == pytest.approx((exact * exact).sum().item(), rel=1e-6)
    assert fingerprint(values.flip(0).reshape(1, -1)) == pytest.approx(found)


def test_fingerprints_leave_out_what_is_not_finite() -> None:
    assert fingerprint(torch.tensor([1.0, float("nan"), float("inf"), 2.0])) == (4, 1.0, 2.0, 3.0, 5.0)
    assert fingerprint(torch.zeros(0)) == (0, 0.0, 0.0, 0.0, 0.0)
    assert fingerprint(torch.ones(1, device="meta")) is None


@pytest.mark.parametrize("wrong", [{"architectures": 7}, {"vocab_size": True}, {"num_attention_heads": 0}])
def test_a_configuration_that_the_library_cannot_use(tmp_path: Path, wrong: dict[str, Any]) -> None:
    known = {"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 9}
    (tmp_path / "config.json").write_text(json.dumps(known | wrong))
    with pytest.raises(InputError, match="cannot be loaded as a Hugging Face model"):
        load_model(str(tmp_path))


@pytest.mark.parametrize(
    ("claimed", "words"),
    [
        ({"num_hidden_layers": 1 << 40}, f"a model of num_hidden_layers = {1 << 40} .* 10,000 modules"),
        ({"num_hidden_layers": 1000}, "describes would be larger than the limit of 10,000 modules: .* of 2"),
        ({"vocab_size": 1 << 40}, "describes would be larger than the limit of 512 MiB"),
        ({"max_position_embeddings": 1 << 31}, "describes would be larger than the limit of 512 MiB"),
    ],
)
def test_a_configuration_that_claims_more_than_its_weights_can_be(
    tmp_path: Path, claimed: dict[str, Any], words: str
) -> None:
    BertModel(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=9)).save_pretrained(
        tmp_path
    )
    config = tmp_path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | claimed))
    with pytest.raises(LimitError, match=words):
        load_model(str(tmp_path))


def test_parameters_without_weights_are_named(mx: Mx, tmp_path: Path) -> None:
    config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=9)
    BertForMaskedLM(config).save_pretrained(tmp_path / "bert")
    config.architectures = ["BertModel"]  # which has a pooler
    (tmp_path / "bert" / "config.json").write_text(config.to_json_string())
    done = mx("trace", "bert", "-o", "t.json", cwd=tmp_path)
    assert done.returncode == 0
    assert "mx trace: bert has no weights for pooler.dense.bias, pooler.dense.weight: they are random" in (
        done.stderr.decode().splitlines()
    )


def test_record(mx: Mx, tmp_path: Path) -> None:
    done = mx("trace", f"{MODELS}:repeated", "-o", tmp_path / "t.json", "--record")
    assert done.returncode == 0, done.stderr.decode()
    read = sidecar.loads((tmp_path / "t.json").read_bytes(), "t.json")
    assert read.record
    values = load_file(tmp_path / read.record)
    assert values["x"].shape == (2, 8)
    for call in read.calls:
        for tensor in (*call.inputs, *call.outputs):
            assert values[str(tensor.id)].shape == tensor.shape


def test_sidecar_round_trip() -> None:
    made = trace(load_subject(f"{MODELS}:repeated"))
    assert sidecar.loads(sidecar.dumps(made), "x") == made


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"calls": [{"scope": ".", "tag": "/A", "module": "nowhere"}]}, "not listed"),
        ({"calls": [{"scope": ".", "tag": "/A", "module": ".", "parent": 0}]}, "parent"),
        ({"calls": "x"}, "not a valid sidecar"),
        ({"schema": "mxtools.trace/7"}, "mxtools.trace/7"),
    ],
)
def test_damaged_sidecars(change: dict[str, Any], message: str) -> None:
    data = json.loads(sidecar.dumps(trace(load_subject(f"{MODELS}:repeated"))))
    with pytest.raises(InputError, match=message):
        sidecar.loads(json.dumps(data | change), "x.json")


class Reaching(nn.Module):
    """A caller that reaches below a module that it also calls."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.body[0](self.body(x))


def test_scopes_stay_unique() -> None:
    assert list(traced(Reaching(), x=torch.ones(1, 2))) == [".", "body", "body.0", "body.0@1"]
