"""What several commands share: running a pipeline from file to file, and reports."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mxtools.errors import UsageError, printable

from .streams import Place, check_output, is_pipe, model_source, named, read_bytes, write_model

if TYPE_CHECKING:
    from mxtools.passes.record_absent import TagReport
    from mxtools.pipeline.pipeline import Pipeline, PipelineReport
    from mxtools.pipeline.working_model import WorkingModel
    from mxtools.runtime.distance import Distance
    from mxtools.traces.sidecar import Sidecar
    from mxtools.traces.values import Values


def process(
    pipeline: Pipeline,
    source: str,
    output: str,
    data_dir: Path | None = None,
    trace: str | None = None,
    inputs: Path | None = None,
    previous: str | None = None,
) -> PipelineReport:
    """Read a model, run a pipeline over it and write it; return what the passes report."""
    check_output(output)
    if previous and is_pipe(previous):
        raise UsageError("--from names a file: the model to tag comes from stdin")
    model = opened(source, data_dir, trace, inputs)
    if previous:
        model.previous = opened(previous)
        model.previous.sidecar = model.sidecar if trace else model.previous.sidecar
    with contextlib.redirect_stdout(sys.stderr):  # what a user's function prints does not mix with the model
        report = pipeline.run(model)
    write_model(model, output, data_dir)
    return report


def opened(
    source: Place,
    data_dir: Path | None = None,
    trace: str | None = None,
    inputs: Path | None = None,
) -> WorkingModel:
    """Read a model and what is known besides it: a sidecar, else the one in the model, and recorded or given values."""
    from mxtools.pipeline.working_model import WorkingModel

    if is_pipe(source) and trace and is_pipe(trace):
        raise UsageError("the model and the sidecar cannot both come from stdin: give the file of one")
    sidecar, values = known(trace, inputs)
    return WorkingModel.read(model_source(source), named(source), data_dir=data_dir, sidecar=sidecar, values=values)


def known(trace: str | None, inputs: Path | None) -> tuple[Sidecar | None, Values | None]:
    """Read what is known besides a model: a sidecar, and the given values, else its recorded ones."""
    from mxtools.traces.values import Values, recorded

    sidecar = read_sidecar(trace) if trace else None
    values = Values.open(inputs) if inputs else None
    if sidecar and not values:
        values = recorded(sidecar, Path() if is_pipe(trace) else Path(str(trace)).parent)
    return sidecar, values


def read_sidecar(source: str) -> Sidecar:
    """Read a sidecar from a file, or from stdin for '-'."""
    from mxtools.traces import sidecar

    return sidecar.loads(read_bytes(source), named(source))


def check_json(wanted: bool, output: str) -> None:
    """Refuse a JSON report that would mix with a model on stdout."""
    if wanted and is_pipe(output):
        raise UsageError("--json and the model would both go to stdout: give -o FILE")


def emit(report: object) -> None:
    """Print a report as JSON on stdout."""
    sys.stdout.write(json_text(report))


def figures(apart: Distance) -> dict[str, Any]:
    """Give a distance as data; what JSON has no number for is a string, as in the sidecar."""
    figures = {
        "max_abs": apart.max_abs,
        "relative": apart.relative,
        "cosine": apart.cosine,
        "sqnr_db": apart.sqnr,
    }
    return {k: v if math.isfinite(v) else "Infinity" if v > 0 else "-Infinity" for k, v in figures.items()}


def json_text(report: object) -> str:
    """Give a report as JSON text."""
    return json.dumps(report, indent=2, ensure_ascii=False) + "\n"


def say(text: str) -> None:
    """Print a message for people, on stderr."""
    print(printable(text), file=sys.stderr)  # noqa: T201


@contextmanager
def track(text: str, total: int) -> Iterator[Callable[[], None]]:
    """Show on a terminal how far a work of so many steps is; give what is to be called after each."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as bar:
        task = bar.add_task(text, total=total)
        yield lambda: bar.advance(task)


@contextmanager
def progress(text: str) -> Iterator[None]:
    """Show on a terminal that something is going on."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(text):
        yield


def tagged_in_words(report: TagReport) -> str:
    """Return a report in one line: nodes by evidence, merged nodes, scopes without nodes by reason."""
    counted = ", ".join(f"{word} {count}" for word, count in report.evidence.items())
    parts = [f"{report.nodes} nodes" + (f" ({counted})" if counted else "")]
    if report.merged:
        parts.append(f"{report.merged} merged")
    reasons = Counter(reason.partition(":")[0] for reason in report.absent.values())
    if reasons:
        listed = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
        parts.append(f"{len(report.absent)} scopes without nodes ({listed})")
    return "; ".join(parts)
