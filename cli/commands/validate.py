"""`mx validate`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from ..common import check_json, emit, progress, read_sidecar, say
from ..completion import one_of
from ..options import DataDir, Json, Output, Trace
from ..streams import check_output, is_pipe, model_source, put, source_name, write_model

if TYPE_CHECKING:
    from mxtools.traces.sidecar import Sidecar
    from mxtools.validate.findings import Finding, Mended

FORMATS = ("text", "json", "sarif")
SHOWN = 10
"""How many findings of one rule the text lists."""


@dataclass(frozen=True)
class Checked:
    """What was found in one model, and what was mended."""

    name: str
    findings: list[Finding]
    mended: list[Mended]
    repaired: bool

    @property
    def counts(self) -> dict[str, int]:
        """How many findings there are of each severity."""
        from mxtools.validate.findings import counts

        return counts(self.findings)

    @property
    def remedy(self) -> str:
        """What to do about the first error; empty if there is none."""
        return next((finding.remedy for finding in self.findings if finding.severity == "error"), "")

    @property
    def summary(self) -> str:
        """The counts, in a line."""
        counted = ", ".join(f"{count} {word}{'' if count == 1 else 's'}" for word, count in self.counts.items())
        return f"{self.name}: {counted}{f', {len(self.mended)} mended' if self.repaired and not self.remedy else ''}"


def command(
    source: Annotated[
        list[str] | None,
        Argument(metavar="[ONNX]…", help="ONNX files; '-' or nothing is stdin.", show_default=False),
    ] = None,
    trace: Trace = None,
    repair: Annotated[
        bool, Option("--repair", help="Repair what can be repaired, write the model, and check the result.")
    ] = False,
    output: Output = "-",
    ignore: Annotated[
        list[str] | None,
        Option("--ignore", metavar="RULE", help="Leave out the findings of this rule, such as untagged."),
    ] = None,
    format_: Annotated[
        str,
        Option(
            "--format", "-f", autocompletion=one_of(FORMATS), metavar="|".join(FORMATS), help="Format of the report."
        ),
    ] = "text",
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Checks the model (valid ONNX, consistent types, loads in ONNX Runtime), its tags, and whether the trace fits.

    The trace is the one given by --trace, or the one in the model. Several models are checked one after the other;
    their reports as JSON are a list.

    Each finding has a rule, a node and its scope, a reason and a remedy. Ends with exit status 1 if there is an
    error. --json is the same as --format json. CI services show findings in the format sarif.

    Example: mx validate bert.tagged.onnx --trace bert.trace.json
    """
    from mxtools.errors import CheckError
    from mxtools.validate.findings import require_rules

    format_ = "json" if json and format_ == "text" else format_
    sources = source or ["-"]
    _check(format_, json, repair, sources, trace, output)
    require_rules(ignore or ())
    sidecar = read_sidecar(trace) if trace else None
    folder = Path() if is_pipe(trace) else Path(str(trace)).parent
    checked = []
    for name in sources:
        checked.append(_checked(name, sidecar, folder, data_dir, output if repair else None, ignore or ()))
        if format_ == "text":
            _tell(checked[-1], say if repair and is_pipe(output) else put)
    _write(checked, format_)
    failed = [model for model in checked if model.remedy]
    if failed and len(checked) == 1:
        raise CheckError(failed[0].summary, failed[0].remedy)
    for model in checked:
        say(f"mx validate: {model.summary}")
    if failed:
        raise CheckError(f"{len(failed)} of {len(checked)} models have errors", f"{failed[0].name}: {failed[0].remedy}")


def _checked(
    source: str,
    sidecar: Sidecar | None,
    folder: Path,
    data_dir: Path | None,
    output: str | None,
    ignored: Collection[str],
) -> Checked:
    """Check a model; if there is an `output`, also repair it, and write it there."""
    from mxtools.carriers.packed import embedded_trace
    from mxtools.errors import InputError
    from mxtools.files.reading import read_model
    from mxtools.pipeline.working_model import WorkingModel
    from mxtools.validate import findings as checking

    name = source_name(source)
    proto, weights = read_model(model_source(source), name, data_dir, placing=False)
    if not sidecar:
        with suppress(InputError):  # an unreadable one is a finding
            sidecar = embedded_trace(proto)
    model = WorkingModel(proto, weights, name, sidecar=sidecar)
    mended: list[Mended] = []
    with progress("validating"):
        if output is not None:
            mended, findings = checking.repair(model, folder)
        else:
            findings = checking.validate(model, folder)
    if output is not None:
        write_model(model, output, data_dir)
    findings = [finding for finding in findings if finding.rule not in ignored]
    return Checked(name, findings, mended, output is not None)


def _check(format_: str, json: bool, repair: bool, sources: Sequence[str], trace: str | None, output: str) -> None:
    """Refuse options that make no sense together, and an output that cannot be written, before any work."""
    from mxtools.errors import UsageError, suggestion

    if format_ not in FORMATS:
        raise UsageError(f"there is no format {format_!r}", suggestion(format_, FORMATS))
    if json and format_ != "json":
        raise UsageError(f"--json and --format {format_} are two formats", "give one")
    if not repair and not is_pipe(output):
        raise UsageError("-o names the repaired model", "give --repair too, or redirect the report")
    if len(sources) > 1 and (repair or trace):
        raise UsageError(f"{'--repair' if repair else '--trace'} is for one model", "call `mx validate` for each")
    if len(sources) > 1 and any(map(is_pipe, sources)):
        raise UsageError("of several models none can come from stdin", "give files")
    if repair:
        check_json(format_ != "text", output)
        check_output(output, replacing=sources[0])


def _write(checked: Sequence[Checked], format_: str) -> None:
    """Write reports in a format for programs: the report of one model, or one list or log for several."""
    from mxtools.validate.sarif import sarif

    if format_ == "sarif":
        emit(sarif((model.name, finding) for model in checked for finding in model.findings))
    if format_ == "json":
        reports = [_data(model) for model in checked]
        emit(reports if len(reports) > 1 else reports[0])


def _data(model: Checked) -> dict[str, Any]:
    repaired = [{**item.finding.to_dict(), "done": item.done} for item in model.mended]
    listed = [finding.to_dict() for finding in model.findings]
    return {"model": model.name, "counts": model.counts, "findings": listed, "mended": repaired}


def _tell(model: Checked, tell: Callable[[str], None]) -> None:
    """Tell people what was mended and found; if one rule has many findings, only the first ones."""
    lines = [
        (item.finding.rule, f"mended: {item.finding.rule}: {item.finding.place}{item.done}") for item in model.mended
    ]
    seen: Counter[str] = Counter()
    for rule, line in [*lines, *((finding.rule, str(finding)) for finding in model.findings)]:
        seen[rule] += 1
        if seen[rule] <= SHOWN:
            tell(line)
    for rule, count in seen.items():
        if count > SHOWN:
            tell(f"{rule}: {count - SHOWN} more, --json lists all")
