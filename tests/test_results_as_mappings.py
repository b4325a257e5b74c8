"""What Python calls return can be read by attribute and as a mapping; the documented calls, as users write them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import mxtools
from mxtools.strategies.metrics import Metrics, Stage, TagQuality
from mxtools.strategy_selector import Recommendation, StrategySelector
from mxtools.unified_export import Demands, ExportResult, export_model_auto, export_model_with_fallback
from mxtools.verify.round_trip import RoundTrip


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).eval()


@pytest.fixture(scope="module")
def inputs() -> dict[str, torch.Tensor]:
    return {"input": torch.ones(1, 4)}


@pytest.fixture(scope="module")
def automatic(model: nn.Module, inputs: Any, tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    output = tmp_path_factory.mktemp("automatic") / "output.onnx"
    return export_model_auto(model, inputs, output, priority="coverage", monitor_performance=True)


def test_export_model_auto(automatic: ExportResult) -> None:
    result = automatic
    assert result.performance_metrics
    assert 'auxiliary_operations_coverage' in result.performance_metrics  # fmt: skip
    assert 'fallback_strategy_usage' in result.performance_metrics  # fmt: skip
    assert result["strategy"] == result.strategy
    assert result["performance_metrics"]["tag_quality"]["direct"] == result.performance_metrics.tag_quality.direct
    assert "no_such_thing" not in result.performance_metrics
    assert "no_such_thing" not in result


def test_export_model_with_fallback(model: nn.Module, inputs: Any, tmp_path: Path) -> None:
    result = export_model_with_fallback(
        model, inputs, tmp_path / "output.onnx", primary="htp", fallback=["usage"], demands=Demands(verify=True)
    )
    assert result.performance_metrics
    assert 'auxiliary_operations_coverage' in result.performance_metrics  # fmt: skip
    assert 'fallback_strategy_usage' in result.performance_metrics  # fmt: skip
    assert [attempt.strategy for attempt in result["attempts"]] == ["htp"]
    assert result["performance_metrics"]["round_trip"]["exact"] == 4


def test_select_strategy(model: nn.Module, inputs: Any) -> None:
    recommendation = StrategySelector(limit=120).select_strategy(model, inputs, priority="compatibility")
    assert "confidence" in recommendation
    assert recommendation["strategy"] == recommendation.strategy == "htp"
    assert dict(recommendation)["fallbacks"] == recommendation.fallbacks


def test_metrics_without_monitoring(model: nn.Module, inputs: Any, tmp_path: Path) -> None:
    result = mxtools.export_model_auto(model, inputs, tmp_path / "o.onnx", strategy="htp", monitor_performance=False)
    assert result["performance_metrics"] is None
    assert "performance_metrics" in result


METRICS = Metrics(
    stages={"tag": Stage(seconds=1.0, peak_memory=2)},
    nodes=3,
    evidence={"name": 3},
    auxiliary_operations_coverage=1.0,
    fallback_strategy_usage={},
    tag_quality=TagQuality(direct=1.0, merged=0, roots=0, absent={}),
    edge_cases=(),
    round_trip=RoundTrip(exact=2, bad=1),
)
RESULT = ExportResult(Path("o.onnx"), "htp", (), 3, 3, 1, performance_metrics=METRICS)
RECOMMENDATION = Recommendation("htp", "speed", 1.0, ("it is fast",), ("fx",))
ALL = [METRICS, METRICS.tag_quality, METRICS.stages["tag"], METRICS.round_trip, RESULT, RECOMMENDATION]


@pytest.mark.parametrize("record", ALL, ids=lambda record: type(record).__name__)
def test_each_is_a_mapping(record: Any) -> None:
    assert isinstance(record, Mapping)
    keys = list(record.keys())
    assert keys == list(record) == list(dict(record)) == list({**record})
    assert len(record) == len(keys) > 0
    assert list(record.values()) == [record[key] for key in keys]
    assert list(record.items()) == [(key, record[key]) for key in keys]
    assert all(key in record for key in keys)
    assert record.get("no_such_thing", 7) == 7
    with pytest.raises(KeyError, match="no_such_thing"):
        record["no_such_thing"]


def test_keys_are_those_of_the_json_report() -> None:
    assert list(METRICS) == list(json.loads(METRICS.model_dump_json(by_alias=True)))
    assert dict(METRICS)["schema"] == "mxtools.metrics/1"
    assert list(RESULT) == [field.name for field in dataclasses.fields(RESULT)]


def test_they_stay_what_they_were() -> None:
    assert METRICS.model_copy(deep=True) == METRICS
    assert Metrics.model_validate_json(METRICS.model_dump_json(by_alias=True)) == METRICS
    assert dataclasses.replace(RESULT, strategy="fx").strategy == "fx"
    assert dataclasses.asdict(RESULT)["performance_metrics"] == METRICS
    assert repr(METRICS).startswith("Metrics(schema_=")
    with pytest.raises((AttributeError, ValueError)):
        METRICS.nodes = 4  # type: ignore[misc]  # that it raises is what is tested
