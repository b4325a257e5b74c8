"""Files of a part of a model, as Optimum writes them, tagged by the trace of the whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import mxtools
from mxtools.errors import InputError
from mxtools.passes.record_absent import TagReport
from mxtools.runtime.quiet import quiet
from mxtools.traces.traced_calls import known_outputs
from mxtools.traces.values import Values, feeds, inner_inputs
from mxtools.verify.round_trip import round_trip
from tests.support.commands import Mx
from tests.support.small_traces import trace_of, values_of

EXPORTERS = pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
IDS = torch.tensor([[3, 1, 4, 1, 5]])


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.k, self.v, self.o = (nn.Linear(8, 8, bias=False) for _ in range(3))
        self.cache: list[Tensor] | None = None

    def forward(self, hidden: Tensor, source: Tensor) -> Tensor:
        keys, values = (m(source).view(1, -1, 2, 4).transpose(1, 2) for m in (self.k, self.v))
        if self.cache is not None:
            self.cache += [keys, values]
        asked = hidden.view(1, -1, 2, 4).transpose(1, 2)
        mixed = torch.softmax(asked @ keys.transpose(2, 3), -1) @ values
        return self.o(mixed.transpose(1, 2).reshape(hidden.shape))


class Layer(nn.Module):
    def __init__(self, crosses: bool) -> None:
        super().__init__()
        self.attention, self.norm = Attention(), nn.LayerNorm(8)
        self.cross = Attention() if crosses else None

    def forward(self, hidden: Tensor, encoded: Tensor | None = None) -> Tensor:
        hidden = hidden + self.attention(hidden, hidden)
        if self.cross is not None and encoded is not None:
            hidden = hidden + self.cross(hidden, encoded)
        return self.norm(hidden)


class Stack(nn.Module):
    def __init__(self, embedding: nn.Embedding, crosses: bool) -> None:
        super().__init__()
        self.embed_tokens = embedding
        self.layers, self.norm = nn.ModuleList([Layer(crosses), Layer(crosses)]), nn.LayerNorm(8)

    def forward(self, input_ids: Tensor, encoder_hidden_states: Tensor | None = None) -> Tensor:
        hidden = self.embed_tokens(input_ids)
        for layer in self.layers:
            hidden = layer(hidden, encoder_hidden_states)
        return self.norm(hidden)


class Translator(nn.Module):
    """An encoder and a decoder with one embedding: one object in all, or copies that have the same weight."""

    def __init__(self, copies: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.shared = nn.Embedding(9, 8)
        self.encoder, self.decoder = (
            Stack(nn.Embedding(9, 8, _weight=self.shared.weight) if copies else self.shared, crosses)
            for crosses in (False, True)
        )
        self.head = nn.Linear(8, 9)

    def forward(
        self, input_ids: Tensor | None = None, decoder_input_ids: Tensor | None = None, encoded: Tensor | None = None
    ) -> Any:
        encoded = self.encoder(input_ids) if encoded is None else encoded
        return {"logits": self.head(self.decoder(decoder_input_ids, encoder_hidden_states=encoded)), "encoded": encoded}


class WithCache(Translator):
    """The same, which also returns the keys and values of the decoder's attentions."""

    def forward(
        self, input_ids: Tensor | None = None, decoder_input_ids: Tensor | None = None, encoded: Tensor | None = None
    ) -> Any:
        attentions = [module for module in self.decoder.modules() if isinstance(module, Attention)]
        for attention in attentions:
            attention.cache = []
        return super().forward(input_ids, decoder_input_ids, encoded)["logits"], *[
            t for a in attentions for t in a.cache or ()
        ]


class Towers(nn.Module):
    """Two stacks of the same modules."""

    def __init__(self, equal: bool) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.question, self.answer = (Stack(nn.Embedding(9, 8), False).eval() for _ in range(2))
        if equal:
            self.answer.load_state_dict(self.question.state_dict())

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return (self.question(first) * self.answer(second)).sum(-1)


def exported(
    module: nn.Module,
    inputs: dict[str, Tensor],
    file: Path,
    dynamo: bool,
    names: list[str],
    outputs: Sequence[str] = (),
) -> mxtools.Model:
    """Export a module with PyTorch's own function, and return the file as a model."""
    named: Any = {"input_names": names, "output_names": list(outputs), "opset_version": 18, "verbose": False}
    with quiet():
        torch.onnx.export(module, (), file, kwargs=inputs, dynamo=dynamo, **named)
    return mxtools.load(file)


def whole_trace(copies: bool = True) -> mxtools.Trace:
    return mxtools.trace(Translator(copies).eval(), {"input_ids": IDS, "decoder_input_ids": IDS.flip(1)}, record=True)


def verdicts(model: mxtools.Model, trace: mxtools.Trace) -> dict[str, str]:
    """Return for each call that made something which is used what becomes of it when it is cut out."""
    return {verdict.scope: verdict.word for verdict in round_trip(model.knowing(trace))}


def scopes_of(model: mxtools.Model, operator: str = "") -> list[str]:
    """Return the scopes of the nodes, or of those of an operator."""
    calls, scopes = model.annotations.call, model.annotations.hierarchy.scopes
    return [scopes[c or 0] for n, c in zip(model.graph.nodes, calls, strict=True) if operator in ("", n.op_type)]


def modules_of(report: TagReport) -> set[str]:
    return {scope.partition(".")[0] for scope in report.absent}


@EXPORTERS
def test_an_encoder_is_tagged_by_the_trace_of_the_whole(dynamo: bool, tmp_path: Path) -> None:
    trace, encoder = whole_trace(), Translator().eval().encoder
    model = exported(encoder, {"input_ids": IDS}, tmp_path / "encoder.onnx", dynamo, ["input_ids"])
    report = model.tag(trace)
    assert report.part == "encoder"
    assert report.to_dict()["part"] == "encoder"
    assert modules_of(report) <= {"encoder"}
    assert all(scope.startswith("encoder") for scope in scopes_of(model))
    found = verdicts(model, trace)
    assert set(found.values()) == {"exact"}
    assert {"encoder", "encoder.embed_tokens", "encoder.layers.1", "encoder.layers.1.norm"} <= found.keys()
    assert not [call.scope for call in model.verify(trace).calls if call.scope.startswith("decoder")]
    assert not [f for f in model.validate(trace) if f.severity in ("error", "warning")]


def test_an_encoder_is_tagged_alike_by_its_own_trace(tmp_path: Path) -> None:
    encoder = Translator().eval().encoder
    model = exported(encoder, {"input_ids": IDS}, tmp_path / "encoder.onnx", False, ["input_ids"])
    model.tag(mxtools.trace(encoder, {"input_ids": IDS}))
    own = scopes_of(model)
    model.tag(whole_trace())
    assert scopes_of(model) == ["encoder" if s == "." else f"encoder.{s}" for s in own]


def test_a_tagged_part_goes_on_with_the_trace_in_it(mx: Mx, tmp_path: Path) -> None:
    encoder = Translator().eval().encoder
    exported(encoder, {"input_ids": IDS}, tmp_path / "encoder.onnx", False, ["input_ids"])
    whole_trace().save(tmp_path / "t.json")
    for line in (
        "tag encoder.onnx --trace t.json --embed-trace -o tagged.onnx",
        "tag tagged.onnx -o again.onnx",
        "filter again.onnx --scope encoder.layers.1 --io module --verify -o layer.onnx",
    ):
        done = mx(*line.split(), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert not line.startswith("tag ") or b" nodes of encoder (" in done.stderr
    assert [i.name for i in mxtools.load(tmp_path / "layer.onnx").to_proto().graph.input] == ["hidden"]
    done = mx("filter", "again.onnx", "--scope", "decoder", "-o", "x.onnx", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, done.stderr)


def test_equal_towers_are_told_apart_by_their_weights(tmp_path: Path) -> None:
    inputs = {"first": IDS, "second": IDS.flip(1)}
    for name in ("question", "answer"):
        towers = Towers(equal=False)
        file = tmp_path / f"{name}.onnx"
        model = exported(getattr(towers, name), {"input_ids": IDS}, file, False, ["input_ids"])
        assert model.tag(mxtools.trace(towers, inputs)).part == name
    alike = Towers(equal=True)
    with pytest.raises(InputError, match=r"belongs to another model than .*: Towers has no module 'embed_tokens'"):
        exported(alike.answer, {"input_ids": IDS}, file, False, ["input_ids"]).tag(mxtools.trace(alike, inputs))


def test_the_first_call_of_a_part_stands_for_it(tmp_path: Path) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.stack = Stack(nn.Embedding(9, 8), False)

        def forward(self, first: Tensor, second: Tensor) -> Tensor:
            return self.stack(first) + self.stack(second)

    twice = Twice().eval()
    model = exported(twice.stack, {"input_ids": IDS}, tmp_path / "stack.onnx", False, ["input_ids"])
    trace = mxtools.trace(twice, {"first": IDS, "second": IDS.flip(1)}, record=True)
    assert model.tag(trace).part == "stack"
    assert set(verdicts(model, trace).values()) == {"exact"}


@EXPORTERS
def test_a_decoder_begins_with_what_the_encoder_made(dynamo: bool, tmp_path: Path) -> None:
    """Its `input_ids` are not those of the whole, and keys and values that only it returns stay where they were."""
    trace, model = whole_trace(), WithCache().eval()
    encoded = model.encoder(IDS).detach()
    given = {"decoder_input_ids": IDS.flip(1), "encoded": encoded}
    names = ["input_ids", "encoder_hidden_states"]
    outputs = ["logits", *(f"present.{i}.{name}" for i in range(4) for name in ("key", "value"))]
    decoder = exported(model, given, tmp_path / "decoder.onnx", dynamo, names, outputs)
    report = decoder.tag(trace)
    assert report.part == ""
    assert report.absent["encoder"] == "unused"
    found = verdicts(decoder, trace)
    layers = {scope: word for scope, word in found.items() if scope.startswith("decoder")}
    assert {"decoder", "decoder.layers.0", "decoder.layers.1.norm"} <= layers.keys()
    assert set(layers.values()) == {"exact"}
    graph, calls = decoder.graph, decoder.annotations.call
    makers = [decoder.annotations.hierarchy.scopes[calls[graph.producer[v]] or 0] for v in graph.outputs[1:]]
    caches = [f"decoder.layers.{layer}.{name}" for layer in (0, 1) for name in ("attention", "cross")]
    assert makers == [name for name in caches for _ in ("key", "value")]


@EXPORTERS
def test_a_module_that_was_one_and_is_several_with_one_weight(dynamo: bool, tmp_path: Path) -> None:
    older = WithCache(copies=False).eval()
    given = {"decoder_input_ids": IDS.flip(1), "encoded": older.encoder(IDS).detach()}
    decoder = exported(older, given, tmp_path / "d.onnx", dynamo, ["input_ids", "encoder_hidden_states"])
    decoder.tag(whole_trace(copies=True))
    assert "decoder.embed_tokens" in scopes_of(decoder, "Gather")


def test_what_only_makes_an_output_that_the_file_lacks_is_unused(tmp_path: Path) -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.pooler = nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.Tanh())

        def forward(self, x: Tensor, pools: bool = True) -> dict[str, Tensor]:
            hidden = self.body(x)
            return {"hidden": hidden, "pooled": self.pooler(hidden[:, 0])} if pools else {"hidden": hidden}

    module, x = Pooled().eval(), torch.ones(2, 3, 4)
    with quiet():
        torch.onnx.export(
            module, (x, False), tmp_path / "m.onnx", input_names=["x"], output_names=["hidden"], dynamo=False
        )
    report = mxtools.load(tmp_path / "m.onnx").tag(mxtools.trace(module, {"x": x}))
    assert report.absent == dict.fromkeys(("pooler", "pooler.0", "pooler.1"), "unused")


INPUTS = """
. Whole ids:1x5 mask:1x5 other:1x3 -> logits:1x3x9
encoder Stack ids:1x5 mask:1x5 -> encoded:1x5x8
decoder Stack other:1x3 encoded:1x5x8 mask:1x5 -> hidden:1x3x8
"""


def test_inputs_are_those_of_the_model_or_of_a_call_inside() -> None:
    sidecar = trace_of(INPUTS)
    assert inner_inputs(sidecar, ["ids", "mask"]) == {}
    assert inner_inputs(sidecar, ["a", "b", "c"]) == {}  # as many, in the same order
    assert inner_inputs(sidecar, ["mask", "encoded", "other"]) == {"mask": 1, "encoded": 4, "other": 2}
    assert inner_inputs(sidecar, ["encoded", "nothing"]) == {}


def test_values_of_inner_inputs() -> None:
    sidecar = trace_of(INPUTS)
    names = "ids mask other logits encoded hidden"
    arrays = {name: np.full(3, number, np.float32) for number, name in enumerate(names.split())}
    values = values_of(arrays, names)
    values = Values([n for n in values.names if n not in ("logits", "encoded", "hidden")], values.get)
    asked = ["mask", "encoded", "other"]
    assert {name: array[0] for name, array in feeds(sidecar, values, asked).items()} == {
        "mask": 1,
        "encoded": 4,
        "other": 2,
    }
    assert [array[0] for array in feeds(sidecar, values, ["a", "b", "c"]).values()] == [0, 1, 2]
    assert not feeds(sidecar, values, ["encoded", "nothing"])


def test_outputs_that_the_traced_model_returned() -> None:
    sidecar = trace_of(". Whole x:2 -> logits:2 hidden:2")
    assert known_outputs(["a", "b"], sidecar) == {"a", "b"}
    assert known_outputs(["logits", "present"], sidecar) == {"logits", "present"}  # as many: the names are others
    assert known_outputs(["logits", "hidden", "present"], sidecar) == {"logits", "hidden"}
    assert known_outputs(["a", "b", "c"], sidecar) == {"a", "b", "c"}
