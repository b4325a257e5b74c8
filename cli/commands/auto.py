"""`mx auto`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from ..common import emit, json_text, progress, say
from ..completion import strategies
from ..options import Cache, Json, Priority, Static, axes, say_axes, takes_model, varies
from ..streams import check_output, write_text

if TYPE_CHECKING:
    from mxtools.pytorch.strategy.attempt import ExportResult


@takes_model
def command(
    load: Any,
    output: Annotated[Path, Option("--output", "-o", metavar="FILE", help="Tagged ONNX file to write.")],
    priority: Priority = "coverage",
    primary: Annotated[
        str,
        Option(
            autocompletion=strategies,
            metavar="NAME",
            help="Strategy to try first; by default the one that suits the model.",
        ),
    ] = "",
    fallback: Annotated[
        list[str] | None, Option(autocompletion=strategies, metavar="NAME", help="Strategy to try if that fails.")
    ] = None,
    verify: Annotated[
        bool,
        Option("--verify", help="Accept only a model that returns what PyTorch returns; measure this for each module."),
    ] = False,
    min_quality: Annotated[
        float,
        Option(
            min=0, max=1, help="Smallest share of nodes with direct evidence; with --verify, smallest round trip rate."
        ),
    ] = 0.0,
    optimize: Annotated[
        str | None,
        Option(
            metavar="onnxscript|onnxslim|ort-basic", help="Optimiser for the tagged graph; by default the strategy's."
        ),
    ] = None,
    opset: Annotated[
        int | None, Option(help="Version of the ONNX operator set; by default the exporter's choice.")
    ] = None,
    dynamic: Annotated[
        list[str] | None, Option(metavar="NAME=AXIS[:SYMBOL],…", help="Dynamic axes of an input.")
    ] = None,
    static: Static = False,
    report: Annotated[
        Path | None, Option(metavar="FILE", help="File for what was tried and measured: .json or .md.")
    ] = None,
    cache: Cache = None,
    json: Json = False,
) -> None:
    """Test-exports the model to choose a strategy, exports and tags it, and checks the result in ONNX Runtime.

    If a strategy fails, the next one is tried. The report says what was tried, and why.

    Example: mx auto ./bert -o bert.tagged.onnx --verify --report bert.report.md
    """
    from mxtools.errors import UsageError
    from mxtools.strategies import table

    if report and report.suffix not in (".json", ".md"):
        raise UsageError(f"--report {report}", "give a .json or .md file")
    names = [*([primary] if primary else []), *(fallback or [])]
    for name in names:
        table.get(name)
    table.get(table.DEFAULT).optimized(optimize)
    check_output(output, report)
    from mxtools.pytorch.exporting.exporters import Options, check_opset

    check_opset("auto", opset)
    varying = varies(load, dynamic, static)
    subject = load()
    from mxtools.pytorch.strategy.attempt import Demands
    from mxtools.pytorch.strategy.automatic import export_subject

    demands, options = Demands(verify, min_quality), Options(opset, axes(dynamic), varying=varying)
    with progress(f"exporting {subject.spec}"):
        result = export_subject(subject, output, names, priority, demands, options, cache, optimize)
    if report:
        text = _markdown(result) if report.suffix == ".md" else json_text(_data(result))
        write_text(text, report)
    if json:
        emit(_data(result))
        return
    for warning in result.warnings:
        say(f"mx auto: {warning}")
    say_axes("auto", result.dynamic_axes, result.static_because)
    tagged = f"{result.tagged_operations} of {result.total_operations} nodes tagged"
    say(f"mx auto: {result.strategy}: {tagged}{_rate(result)}")


def _rate(result: ExportResult) -> str:
    trip = result.performance_metrics.round_trip if result.performance_metrics else None
    if not trip:
        return ""
    first, *others = result.verified_on or ("nothing, because each run returns something else",)
    also = f", as a whole also on {', '.join(others)}" if others else ""
    return f", round trip {trip.rate:.4f} (on {first}{also})"


def _data(result: ExportResult) -> dict[str, Any]:
    metrics = result.performance_metrics
    return asdict(result) | {
        "output_path": str(result.output_path),
        "performance_metrics": metrics.model_dump(mode="json", by_alias=True) if metrics else None,
    }


def _markdown(result: ExportResult) -> str:
    """Return a result as a page in Markdown."""
    lines = [f"# {result.output_path.name}", "", f"Strategy: **{result.strategy}**", ""]
    lines += [f"- {reason}" for reason in result.reasons]
    lines += ["", "| tried | result |", "|---|---|"]
    lines += [f"| {attempt.strategy} | {attempt.error or 'succeeded'} |" for attempt in result.attempts]
    lines += ["", "| operations | tagged | scopes |", "|---|---|---|"]
    lines += [f"| {result.total_operations} | {result.tagged_operations} | {result.hierarchy_nodes} |"]
    if result.performance_metrics:
        metrics = result.performance_metrics
        lines += ["", "| stage | seconds | peak memory |", "|---|---|---|"]
        lines += [
            f"| {name} | {stage.seconds:.3f} | {stage.peak_memory / 1e6:.0f} MB |"
            for name, stage in metrics.stages.items()
        ]
        lines += ["", "| evidence | nodes |", "|---|---|"]
        lines += [f"| {word} | {count} |" for word, count in metrics.evidence.items()]
        if result.verified_on:
            lines += ["", f"It returns what PyTorch returns on {', '.join(result.verified_on)}."]
        if metrics.round_trip:
            lines += ["", f"Round trip: {metrics.round_trip.rate:.4f} ({metrics.round_trip.model_dump()})"]
    lines += ["", *(f"- Warning: {warning}" for warning in result.warnings)]
    return "\n".join(lines).rstrip() + "\n"
