"""`mx validate`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from ..common import check_json, emit, progress, read_sidecar, say
from ..options import DataDir, Json, Output, Source, Trace
from ..streams import check_output, is_pipe, model_source, put, source_name, write_model

if TYPE_CHECKING:
    from mxtools.validate.findings import Finding, Mended

FORMATS = ("text", "json", "sarif")
SHOWN = 10
"""Findings of one rule that the text lists."""


def command(
    source: Source = "-",
    trace: Trace = None,
    repair: Annotated[
        bool, Option("--repair", help="Repair what can be repaired, write the model, and check the result.")
    ] = False,
    output: Output = "-",
    format_: Annotated[str, Option("--format", "-f", metavar="|".join(FORMATS), help="Format of the report.")] = "text",
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Checks the model (valid ONNX, consistent types, loads in ONNX Runtime), its tags, and whether the trace fits.

    The trace is the one given by --trace, or the one in the model.

    Each finding has a rule, a node and its scope, a reason and a remedy. Ends with exit status 1 if there is an
    error. --json is the same as --format json. CI services show findings in the format sarif.

    Example: mx validate bert.tagged.onnx --trace bert.trace.json
    """
    from mxtools.carriers.packed import embedded_trace
    from mxtools.errors import CheckError, InputError
    from mxtools.files.reading import read_model
    from mxtools.pipeline.working_model import WorkingModel
    from mxtools.validate import findings as checking

    format_ = "json" if json and format_ == "text" else format_
    _check(format_, json, repair, source, output)
    sidecar = read_sidecar(trace) if trace else None
    name = source_name(source)
    proto, weights = read_model(model_source(source), name, data_dir, placing=False)
    folder = Path() if is_pipe(trace) else Path(str(trace)).parent
    if not sidecar:
        with suppress(InputError):  # which is a finding
            sidecar = embedded_trace(proto)
    model = WorkingModel(proto, weights, name, sidecar=sidecar)
    mended: list[Mended] = []
    with progress("validating"):
        if repair:
            mended, findings = checking.repair(model, folder)
        else:
            findings = checking.validate(model, folder)
    if repair:
        write_model(model, output, data_dir)
    _report(findings, mended, format_, name, say if repair and is_pipe(output) else put)
    counts = checking.counts(findings)
    summary = ", ".join(f"{count} {word}{'' if count == 1 else 's'}" for word, count in counts.items())
    if counts["error"]:
        first = next(finding for finding in findings if finding.severity == "error")
        raise CheckError(f"{name}: {summary}: {first.remedy}")
    say(f"mx validate: {name}: {summary}{f', {len(mended)} mended' if repair else ''}")


def _check(format_: str, json: bool, repair: bool, source: str, output: str) -> None:
    """Refuse options that are nonsense together, and an output that cannot be written, before any work."""
    from mxtools.errors import UsageError

    if format_ not in FORMATS:
        raise UsageError(f"--format {format_} is none of {', '.join(FORMATS)}")
    if json and format_ != "json":
        raise UsageError(f"--json and --format {format_} are two formats: give one")
    if not repair and not is_pipe(output):
        raise UsageError("-o is where --repair writes: give --repair too, or redirect the report")
    if repair:
        check_json(format_ != "text", output)
        check_output(output, replacing=source)


def _report(
    findings: Sequence[Finding], mended: Sequence[Mended], format_: str, name: str, tell: Callable[[str], None]
) -> None:
    """Put a report where it belongs; of many findings of one rule the text has only the first."""
    from mxtools.validate.findings import counts
    from mxtools.validate.sarif import sarif

    if format_ == "sarif":
        emit(sarif(findings, name))
        return
    if format_ == "json":
        repaired = [{**item.finding.to_dict(), "done": item.done} for item in mended]
        listed = [finding.to_dict() for finding in findings]
        emit({"model": name, "counts": counts(findings), "findings": listed, "mended": repaired})
        return
    lines = [(item.finding.rule, f"mended: {item.finding.rule}: {item.finding.place}{item.done}") for item in mended]
    seen: Counter[str] = Counter()
    for rule, line in [*lines, *((finding.rule, str(finding)) for finding in findings)]:
        seen[rule] += 1
        if seen[rule] <= SHOWN:
            tell(line)
    for rule, count in seen.items():
        if count > SHOWN:
            tell(f"{rule}: {count - SHOWN} more, --json lists all")
