"""One call that exports: selection, fallback, demands, metrics; on real models and real exporters."""

from __future__ import annotations

import contextlib
import copy
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import mxtools
from fixtures import models
from mxtools.errors import InputError, UsageError
from mxtools.pytorch.sources import sources_of
from mxtools.pytorch.strategy.probe import Probe, TimeOverError, within
from mxtools.pytorch.strategy.recommendation import select
from mxtools.pytorch.subject import Subject
from mxtools.strategies.cache import Cache
from mxtools.strategy_selector import StrategySelector
from mxtools.unified_export import Demands, ExportResult

PRIORITIES = ("coverage", "speed", "fidelity", "compatibility")


def t5() -> models.Built:
    import transformers

    torch.manual_seed(0)
    config = transformers.T5Config(vocab_size=100, d_model=16, d_kv=4, d_ff=32, num_layers=2, num_heads=4)
    ids = torch.randint(1, 100, (1, 8), generator=torch.Generator().manual_seed(0))
    return transformers.T5Model(config).eval(), {"input_ids": ids, "decoder_input_ids": ids.clone()}


def only_dynamo() -> models.Built:
    """Return a decoder without a mask, for which TorchScript's exporter lacks an operator."""
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=100,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32,
    )
    ids = torch.randint(1, 100, (1, 8), generator=torch.Generator().manual_seed(0))
    return transformers.LlamaModel(config).eval(), {"input_ids": ids}


class Branching(nn.Module):
    """What torch.export refuses: control flow on data; TorchScript keeps the branch that was taken."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.other = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer(x)
        return self.other(x) if float(x.sum()) > -1e9 else x


def only_torchscript() -> models.Built:
    torch.manual_seed(0)
    return Branching().eval(), {"x": torch.randn(2, 4)}


class Auxiliary(nn.Module):
    """Nothing but shapes and constants."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(-1).unsqueeze(0).to(torch.float64)


def auxiliary() -> models.Built:
    return Auxiliary().eval(), {"x": torch.randn(2, 3)}


BUILT: dict[str, tuple[Callable[[], models.Built], str]] = {
    "cnn": (models.convnet, "fx"),
    "bert": (models.bert, "fx"),
    "t5": (t5, "fx"),
    "only dynamo": (only_dynamo, "fx"),
    "only torchscript": (only_torchscript, "htp"),
    "auxiliary": (auxiliary, "fx"),
}


def check(result: ExportResult, model: nn.Module, inputs: dict[str, torch.Tensor]) -> None:
    """Every node is tagged, and ONNX Runtime gives what PyTorch gives, to 1e-3 of the largest value."""
    loaded = onnx.load(result.output_path)
    tagged = [node for node in loaded.graph.node if any(p.key == "pkg.mxtools.scope" for p in node.metadata_props)]
    assert len(tagged) == len(loaded.graph.node) == result.total_operations
    session = onnxruntime.InferenceSession(result.output_path)
    given = {i.name: inputs[i.name].numpy() for i in session.get_inputs()}
    with torch.no_grad():
        wanted = model(**inputs)
    first = wanted if isinstance(wanted, torch.Tensor) else wanted[0]
    got = session.run(None, given)[0]
    assert np.allclose(got, first.numpy(), atol=1e-3 * float(first.abs().max()))


@pytest.mark.parametrize("name", BUILT)
def test_auto_succeeds_by_the_right_strategy(tmp_path: Path, name: str) -> None:
    build, strategy = BUILT[name]
    model, inputs = build()
    result = mxtools.export_model_auto(
        model, inputs, str(tmp_path / "output.onnx"), priority="coverage", monitor_performance=True
    )
    assert result.strategy == strategy
    check(result, model, inputs)
    metrics = result.performance_metrics
    assert metrics is not None
    assert metrics.nodes == sum(metrics.evidence.values()) == result.total_operations
    assert {"export", "tag"} <= metrics.stages.keys()


@pytest.mark.parametrize("name", BUILT)
def test_fallback_takes_over_where_the_first_fails(tmp_path: Path, name: str) -> None:
    build, _ = BUILT[name]
    model, inputs = build()
    result = mxtools.export_model_with_fallback(
        model, inputs, str(tmp_path / "output.onnx"), primary="fx", fallback="htp"
    )
    fails = name == "only torchscript"
    assert [attempt.strategy for attempt in result.attempts] == (["fx", "htp"] if fails else ["fx"])
    assert result.attempts[-1].error is None
    assert all(attempt.error for attempt in result.attempts[:-1])
    assert len(result.warnings) >= fails
    check(result, model, inputs)


@pytest.mark.parametrize("name", BUILT)
def test_selection_names_what_works(name: str) -> None:
    """By the first priority as a user asks for it, by the others with the same exports."""
    build, _ = BUILT[name]
    model, inputs = build()
    works = {"only dynamo": {"fx"}, "only torchscript": {"htp"}}.get(name, {"fx", "htp"})
    first, *others = PRIORITIES
    recommended = [StrategySelector().select_strategy(model, inputs, priority=first)]
    with sources_of(lambda: Subject(model, inputs, "test")) as sources:
        recommended += [select(Probe(sources), priority) for priority in others]
    assert [found.priority for found in recommended] == list(PRIORITIES)
    for found in recommended:
        assert found.strategy in works
        assert found.reasons
        assert 0 < found.confidence <= 1
        assert found.strategy not in found.fallbacks


@pytest.mark.parametrize("name", ["bert", "only dynamo", "only torchscript"])
def test_a_named_strategy_is_the_only_one(tmp_path: Path, name: str) -> None:
    build, works = BUILT[name]
    model, inputs = build()
    for strategy in ("fx", "htp"):
        output = tmp_path / f"{strategy}.onnx"
        if name == "bert" or strategy == works:
            assert mxtools.export_model_auto(model, inputs, output, strategy=strategy).strategy == strategy
        else:
            with pytest.raises(InputError, match=f"no strategy succeeds.*{strategy}: "):
                mxtools.export_model_auto(model, inputs, output, strategy=strategy)
            assert not output.exists()
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix != ".onnx") == []


def test_reasons_name_the_failure_of_an_exporter() -> None:
    model, inputs = only_dynamo()
    found = StrategySelector().select_strategy(model, inputs, priority="speed")
    assert found.facts == {"torchscript": False, "dynamo": True}
    assert any("an operator that the exporter does not know" in reason for reason in found.reasons)


def test_a_limit_of_time_counts_as_a_failure() -> None:
    model, inputs = models.bert()
    with pytest.raises(InputError, match="no time left"):
        StrategySelector(limit=0).select_strategy(model, inputs, priority="speed")


def test_what_takes_too_long_is_interrupted_even_where_exceptions_are_caught() -> None:
    def stubborn() -> None:
        while True:
            with contextlib.suppress(Exception):
                time.sleep(0.01)

    with pytest.raises(TimeOverError), within(0.1):
        stubborn()
    with within(5):
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 0
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_demands_move_on(tmp_path: Path) -> None:
    model, inputs = models.bert()
    result = mxtools.export_model_with_fallback(
        model, inputs, tmp_path / "o.onnx", primary="fx", fallback="htp", demands=Demands(quality=0.99)
    )
    assert [a.strategy for a in result.attempts] == ["fx", "htp"]
    assert "quality" in str(result.attempts[0].error)


def test_verification_measures_the_round_trip(tmp_path: Path) -> None:
    model, inputs = models.repeated()
    result = mxtools.export_model_auto(model, inputs, tmp_path / "o.onnx", demands=Demands(verify=True))
    assert result.performance_metrics is not None
    trip = result.performance_metrics.round_trip
    assert trip is not None
    assert (trip.exact, trip.extra, trip.bad, trip.missing) == (trip.exact, 0, 0, 0)
    assert trip.exact > 5


class Moody(nn.Module):
    """Gives something else in an export than it gave before: no exporter's result is right."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        exporting = torch.compiler.is_exporting() or torch.jit.is_tracing()
        return x * self.scale + (1.0 if exporting else 0.0)


def test_a_wrong_result_is_a_warning_and_with_verification_an_error(tmp_path: Path) -> None:
    inputs = {"x": torch.ones(2, 3)}
    result = mxtools.export_model_auto(Moody(), inputs, tmp_path / "o.onnx", strategy="htp")
    assert any("differs from PyTorch's" in warning for warning in result.warnings)
    before = (tmp_path / "o.onnx").read_bytes()
    with pytest.raises(InputError, match="differs from PyTorch's"):
        mxtools.export_model_auto(Moody(), inputs, tmp_path / "o.onnx", strategy="htp", demands=Demands(verify=True))
    assert (tmp_path / "o.onnx").read_bytes() == before


class Random(nn.Module):
    """Returns random numbers."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand_like(x)


def test_random_outputs_are_not_compared(tmp_path: Path) -> None:
    result = mxtools.export_model_auto(Random(), {"x": torch.ones(2, 3)}, tmp_path / "o.onnx")
    assert not any("PyTorch returned" in warning for warning in result.warnings)


def test_the_model_is_left_as_it_was(tmp_path: Path) -> None:
    model, inputs = models.bert()
    model.train()
    state = copy.deepcopy(model.state_dict())
    given = {name: tensor.clone() for name, tensor in inputs.items()}
    random = torch.random.get_rng_state()
    mxtools.export_model_auto(model, inputs, tmp_path / "o.onnx", priority="fidelity")
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert all(torch.equal(given[name], tensor) for name, tensor in inputs.items())
    assert torch.equal(random, torch.random.get_rng_state())
    assert "forward" not in vars(model)


@pytest.mark.parametrize("form", ["tensor", "positional", "by name"])
def test_inputs_in_all_forms(tmp_path: Path, form: str) -> None:
    image = models.convnet()[1]["image"]
    inputs: Any = {"tensor": image, "positional": (image,), "by name": {"image": image}}[form]
    result = mxtools.export_model_auto(models.convnet()[0], inputs, tmp_path / "o.onnx", strategy="htp")
    assert onnx.load(result.output_path).graph.input[0].name == "image"


def test_unknown_words_are_refused(tmp_path: Path) -> None:
    model, inputs = models.convnet()
    with pytest.raises(UsageError, match="there is no strategy 'hpt'"):
        mxtools.export_model_auto(model, inputs, tmp_path / "o.onnx", strategy="hpt")
    with pytest.raises(UsageError, match="there is no priority 'beauty'"):
        mxtools.export_model_auto(model, inputs, tmp_path / "o.onnx", priority="beauty")


def test_without_monitoring_there_are_no_metrics(tmp_path: Path) -> None:
    model, inputs = models.convnet()
    result = mxtools.export_model_auto(model, inputs, tmp_path / "o.onnx", strategy="htp", monitor_performance=False)
    assert result.performance_metrics is None


def test_a_cache_gives_the_same_and_follows_the_weights(tmp_path: Path) -> None:
    model, inputs = models.convnet()
    cache = Cache(tmp_path / "cache")
    first = mxtools.export_model_auto(model, inputs, tmp_path / "a.onnx", cache=cache)
    again = mxtools.export_model_auto(model, inputs, tmp_path / "b.onnx", cache=cache)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert first.performance_metrics is not None
    assert again.performance_metrics is not None
    assert "export" in first.performance_metrics.stages
    assert "export" not in again.performance_metrics.stages
    with torch.no_grad():
        model.head.bias += 1
    changed = mxtools.export_model_auto(model, inputs, tmp_path / "c.onnx", cache=cache)
    assert changed.performance_metrics is not None
    assert "export" in changed.performance_metrics.stages
    assert (tmp_path / "a.onnx").read_bytes() != (tmp_path / "c.onnx").read_bytes()
    assert len(cache.entries()) == 2
