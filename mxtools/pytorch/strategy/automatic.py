"""Export and tag a model in one call, by the strategy that suits it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

from torch import nn

from mxtools.pytorch.exporting.exporters import Options
from mxtools.pytorch.objects import subject_of
from mxtools.pytorch.sources import sources_of
from mxtools.pytorch.strategy.attempt import Demands, ExportResult, export_by
from mxtools.pytorch.strategy.probe import LIMIT, Probe
from mxtools.pytorch.strategy.recommendation import Recommendation, select
from mxtools.pytorch.subject import Subject
from mxtools.strategies.cache import Cache
from mxtools.strategies.metrics import Meter


class StrategySelector:
    """Recommends strategies for models, by test-exporting them."""

    def __init__(self, limit: float = LIMIT) -> None:
        """Take the seconds that probing one model may take."""
        self.limit = limit

    def select_strategy(self, model: nn.Module, inputs: Any, priority: str = "coverage") -> Recommendation:  # noqa: ANN401
        """Recommend a strategy for coverage, speed, fidelity or compatibility.

        `inputs` are a tensor, a sequence of positional ones, or a mapping by the names of `forward`. Raises InputError
        if the forward pass raises or no exporter can.
        """
        with sources_of(lambda: subject_of(model, inputs)) as sources:
            return select(Probe(sources, self.limit), priority)


def export_subject(
    subject: Subject,
    output: Path,
    names: Sequence[str] = (),
    priority: str = "coverage",
    demands: Demands | None = None,
    options: Options | None = None,
    cache: Cache | None = None,
    optimizer: str | None = None,
) -> ExportResult:
    """Export and tag a model by the first of some strategies that succeeds; without any, by those that suit the model.

    `optimizer` is onnxscript, onnxslim or ort-basic, and replaces the strategy's own. The model stays as it was. Raises
    InputError, with all causes, if no strategy succeeds; then nothing is written.
    """
    meter = Meter()
    with sources_of(lambda: subject, options, cache, meter) as sources:
        recommendation = None if names else select(Probe(sources), priority)
        order = (recommendation.strategy, *recommendation.fallbacks) if recommendation else names
        result = export_by(order, sources, output, demands or Demands(), meter, optimizer)
        return replace(result, reasons=recommendation.reasons if recommendation else ())


def export_model_auto(
    model: nn.Module,
    inputs: Any,  # noqa: ANN401
    output: str | PathLike[str],
    *,
    priority: str = "coverage",
    strategy: str | None = None,
    monitor_performance: bool = True,
    demands: Demands | None = None,
    options: Options | None = None,
    cache: Cache | None = None,
    optimizer: str | None = None,
) -> ExportResult:
    """Export a model to a tagged ONNX file by the strategy that suits it, or by the one that you name.

    `inputs` as for `StrategySelector`; `priority` is coverage, speed, fidelity or compatibility; `demands` are the
    requirements for a result, `options` those of the export, such as `Options(opset=18)`; `cache` keeps traces and
    exports; `optimizer` is onnxscript, onnxslim or ort-basic, and replaces the strategy's own. Without
    `monitor_performance` the result has no metrics.
    """
    names = (strategy,) if strategy else ()
    result = export_subject(
        subject_of(model, inputs), Path(output), names, priority, demands, options, cache, optimizer
    )
    return result if monitor_performance else replace(result, performance_metrics=None)


def export_model_with_fallback(
    model: nn.Module,
    inputs: Any,  # noqa: ANN401
    output: str | PathLike[str],
    *,
    primary: str = "fx",
    fallback: str | Sequence[str] = "htp",
    monitor_performance: bool = True,
    demands: Demands | None = None,
    options: Options | None = None,
    cache: Cache | None = None,
    optimizer: str | None = None,
) -> ExportResult:
    """Export a model by `primary`, or, if that fails, by the first of the fallbacks that succeeds.

    Everything else is as in `export_model_auto`.
    """
    names = (primary, *((fallback,) if isinstance(fallback, str) else fallback))
    subject = subject_of(model, inputs)
    result = export_subject(
        subject, Path(output), names, demands=demands, options=options, cache=cache, optimizer=optimizer
    )
    return result if monitor_performance else replace(result, performance_metrics=None)
