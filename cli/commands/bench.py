"""`mx bench`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from ..common import emit, say, track
from ..completion import strategies
from ..options import Json, Plot, load
from ..streams import put
from ..table import show

if TYPE_CHECKING:
    from mxtools.pytorch.strategy.bench import Agreement, Row

COLUMNS = ("model", "strategy", "seconds", "peak MB", "nodes", "direct", "roots", "round trip")


def command(
    models: Annotated[list[str], Argument(metavar="MODEL…", help="As for `mx trace`.", show_default=False)],
    strategies: Annotated[
        str, Option(autocompletion=strategies, metavar="NAMES", help="Strategies, separated by commas.")
    ] = "fx,htp,usage",
    rounds: Annotated[int, Option(min=1, help="Number of rounds; the fastest one counts.")] = 1,
    task: Annotated[str | None, Option(metavar="TASK", help="Hugging Face task that picks the model's class.")] = None,
    plot: Plot = None,
    json: Json = False,
) -> None:
    """Shows time and memory of tracing, exporting and tagging, the evidence for the tags, and the module round trip.

    Then shows, for each pair of strategies, for how many traced tensors both give the same module.

    Example: mx bench ./bert ./resnet --strategies fx,htp --plot strategies.svg
    """
    from mxtools.strategies.table import get
    from mxtools.views.plots import check_plot

    if plot:
        check_plot(plot)
    names = [name for name in strategies.split(",") if name]
    for name in names:
        get(name)
    report: dict[str, Any] = {}
    with track("benchmark", len(models) * len(names) * rounds) as advance:
        for model in models:
            rows = _rows(model, names, rounds, task, advance)
            from mxtools.pytorch.strategy.bench import agreements

            report[model] = rows, agreements(rows)
    if plot:
        _plot(plot, {model: rows for model, (rows, _) in report.items()})
    if json:
        emit({model: _data(rows, compared) for model, (rows, compared) in report.items()})
    else:
        _show(report)


def _rows(model: str, names: list[str], rounds: int, task: str | None, advance: Callable[[], None]) -> list[Row]:
    subject = load(model, task=task)
    from mxtools.pytorch.strategy.bench import bench, fastest

    found = []
    for row in bench(subject, names, rounds):
        found.append(row)
        advance()
    return fastest(found)


def _data(rows: list[Row], compared: list[Agreement]) -> dict[str, Any]:
    return {
        "strategies": {
            row.strategy: {
                "error": row.error,
                "seconds": row.seconds,
                "peak_memory": row.peak_memory,
                "metrics": row.metrics.model_dump(mode="json", by_alias=True) if row.metrics else None,
            }
            for row in rows
        },
        "agreement": [
            {"strategies": [a.first, a.second], "agreed": a.agreed, "compared": a.compared, "differing": a.differing}
            for a in compared
        ],
    }


def _show(report: dict[str, tuple[list[Row], list[Agreement]]]) -> None:
    show([COLUMNS, *(_cells(model, row) for model, (rows, _) in report.items() for row in rows)])
    for model, (rows, compared) in report.items():
        for row in rows:
            if row.error:
                say(f"mx bench: {model}: {row.strategy} failed: {row.error}")
        for a in compared:
            put(f"{model}: {a.first} and {a.second} agree on {a.agreed} of {a.compared} tensors")
            for first, second in a.differing[:5]:
                put(f"    {first} and {second}")


def _cells(model: str, row: Row) -> tuple[str, ...]:
    metrics = row.metrics
    if metrics is None or row.seconds is None or row.peak_memory is None:
        return (model, row.strategy, "failed", "", "", "", "", "")
    trip = f"{metrics.round_trip.rate:.4f}" if metrics.round_trip else ""
    return (
        model,
        row.strategy,
        f"{row.seconds:.2f}",
        f"{row.peak_memory / 1e6:.0f}",
        str(metrics.nodes),
        f"{metrics.tag_quality.direct:.3f}",
        str(metrics.tag_quality.roots),
        trip,
    )


def _plot(path: Path, found: dict[str, list[Row]]) -> None:
    """Draw the seconds of each stage of each strategy; a strategy that failed has no bar."""
    from mxtools.pytorch.strategy.bench import COSTS
    from mxtools.views.plots import bars

    rows = [(model, row) for model, of_model in found.items() for row in of_model]
    labels = [f"{model}: {row.strategy}{' (failed)' if row.error else ''}" for model, row in rows]
    stages = [row.metrics.stages if row.metrics else {} for _, row in rows]
    series = {cost: [s[cost].seconds if cost in s else 0.0 for s in stages] for cost in COSTS}
    bars(path, "Strategies", labels, series, "s")
