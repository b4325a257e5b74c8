"""What several commands share: reading models, running a pipeline from file to file, and reports."""

from __future__ import annotations

import contextlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mxtools.errors import MOST_SHOWN, UsageError, printable

from .streams import FileOrPipe, check_output, is_pipe, model_source, read_bytes, source_name, write_model, write_text

if TYPE_CHECKING:
    from mxtools.evidence.statements import NodeHistory
    from mxtools.pipeline.pipeline import Pipeline, PipelineReport, Step
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
    witness: Callable[[WorkingModel], Callable[[Step], None]] | None = None,
    command: str = "",
    write: Callable[[WorkingModel, PipelineReport], None] | None = None,
) -> PipelineReport:
    """Read a model, run a pipeline over it and write the result; return the reports of the passes.

    `witness`, if given, takes the model and returns a function that gets each pass that has run. With the name of a
    `command`, its last line says how the size of the model changed. `write`, if given, writes the result to another
    place than `output`.
    """
    if not write:
        check_output(output, replacing=source)
    if previous and is_pipe(previous):
        raise UsageError("--from names a file: the model to tag comes from stdin")
    model = read_model(source, data_dir, trace, inputs, flowing=not (write or inputs))
    if previous:
        model.previous = read_model(previous)
        model.previous.sidecar = model.sidecar if trace else model.previous.sidecar
    before = size_of(model) if command else None
    with contextlib.redirect_stdout(sys.stderr):  # what a user's function prints does not mix with the model
        report = pipeline.run(model, witness(model) if witness else None)
    if write:
        write(model, report)
    else:
        write_model(model, output, data_dir)
    if before:
        say(f"mx {command}: {changed(before, size_of(model))}")
    return report


def size_of(model: WorkingModel) -> tuple[int, int]:
    """Return how many nodes a model has, including those of bodies and functions, and the bytes of its weights."""
    from mxtools.files.weights import bytes_of, tensors_of
    from mxtools.graph.functions import model_nodes

    return sum(1 for _ in model_nodes(model.proto)), sum(map(bytes_of, tensors_of(model.proto)))


def changed(before: tuple[int, int], after: tuple[int, int]) -> str:
    """Return how the size of a model changed: `nodes 204 → 42, weights 815 kB → 132 kB`."""
    nodes, weights = zip(before, after, strict=True)
    changes = ("nodes", [*map(str, nodes)]), ("weights", [short(size, " ") + "B" for size in weights])
    return ", ".join(f"{what} {' → '.join(dict.fromkeys(texts))}" for what, texts in changes)


def short(count: int, ones: str = "") -> str:
    """Return a count in at most six characters: 999, 1.2 k, 110 M; `ones` is the unit of a small count."""
    for size, unit in ((10**12, " T"), (10**9, " G"), (10**6, " M"), (10**3, " k")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return f"{count}{ones}"


def known(count: int, missing: int, unit: str = "") -> str:
    """Return a count of which some may be missing: then it is a lower bound, `≥ 1.2 k`, or nothing is known, `?`."""
    if missing and not count:
        return "?"
    return ("≥ " if missing else "") + short(count, " " if unit else "") + unit


def read_model(
    source: FileOrPipe,
    data_dir: Path | None = None,
    trace: str | None = None,
    inputs: Path | None = None,
    flowing: bool = False,
) -> WorkingModel:
    """Return a model with its trace (the given sidecar, else the one in the model) and recorded or given values.

    For `flowing` see `model_source`. What writes the model into a pipe may write the sidecar just before, so then the
    sidecar is read after the model.
    """
    from mxtools.pipeline.working_model import WorkingModel
    from mxtools.traces.values import require_known

    if is_pipe(source) and trace and is_pipe(trace):
        raise UsageError("the model and the sidecar cannot both come from stdin", "give the file of one")
    early = None if is_pipe(source) else read_trace_and_values(trace, inputs)
    model = WorkingModel.read(model_source(source, flowing), source_name(source), data_dir=data_dir)
    sidecar, model.values = early or read_trace_and_values(trace, inputs)
    if sidecar:
        model.sidecar = sidecar
    if inputs and model.values:
        require_known(model.values, model.proto, model.sidecar, str(inputs))
    return model


def read_trace_and_values(trace: str | None, inputs: Path | None) -> tuple[Sidecar | None, Values | None]:
    """Return a sidecar, and the given values, else those recorded with the sidecar; None for anything missing."""
    from mxtools.traces.values import Values, recorded

    sidecar = read_sidecar(trace) if trace else None
    values = Values.open(inputs) if inputs else None
    if sidecar and not values:
        values = recorded(sidecar, Path() if is_pipe(trace) else Path(str(trace)).parent)
    return sidecar, values


def read_sidecar(source: str) -> Sidecar:
    """Return the sidecar in a file, or on stdin for '-'."""
    from mxtools.traces import sidecar

    return sidecar.loads(read_bytes(source), source_name(source))


def check_json(wanted: bool, output: str) -> None:
    """Raise UsageError if a JSON report and a model would both go to stdout."""
    if wanted and is_pipe(output):
        raise UsageError("--json and the model would both go to stdout", "give -o FILE")


def emit(report: object) -> None:
    """Print a report as JSON on stdout."""
    write_text(json_text(report), "-")


def figures(distance: Distance) -> dict[str, Any]:
    """Return a distance as data for JSON; JSON has no number for infinities, so they are strings, as in the sidecar."""
    figures: dict[str, float] = {
        "max_abs": distance.max_abs,
        "relative": distance.relative,
        "cosine": distance.cosine,
        "sqnr_db": distance.sqnr,
    }
    from mxtools.files.json_text import finite

    report: dict[str, Any] = {name: finite(value) for name, value in figures.items()}
    if distance.not_finite:
        report["not_finite"] = distance.not_finite
    if distance.largest is not None:
        report["largest"] = distance.largest
    return report | ({"histogram": list(distance.histogram)} if distance.histogram else {})


def json_text(report: object) -> str:
    """Return a report as JSON text."""
    return json.dumps(report, indent=2, ensure_ascii=False) + "\n"


def say(text: str) -> None:
    """Print a message for people on stderr; if stderr cannot be written to, only the message is lost."""
    with contextlib.suppress(OSError, ValueError):
        print(printable(text), file=sys.stderr)  # noqa: T201


def say_differences(command: str, found: Iterable[Mapping[str, Any]] | None) -> None:
    """Print how far the compared outputs are apart."""
    for each in found or ():
        say(f"mx {command}: {each['output']}: max difference {each['max_abs']:.3g} ({each['max_rel']:.3g} relative)")


def say_left(command: str, left: Mapping[str, str]) -> None:
    """Print what a command left unchanged, each with the reason; if there is much, only the first."""
    for name, reason in list(left.items())[:MOST_SHOWN]:
        say(f"mx {command}: left {name}: {reason}")
    if len(left) > MOST_SHOWN:
        say(f"mx {command}: left {len(left) - MOST_SHOWN} more (see --json)")


@contextmanager
def track(text: str, total: int) -> Iterator[Callable[[], None]]:
    """Show on a terminal how many of `total` steps are done; yields a function to call after each step."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as bar:
        task = bar.add_task(text, total=total)
        yield lambda: bar.advance(task)


@contextmanager
def progress(text: str) -> Iterator[None]:
    """Show on a terminal what is going on while the block runs."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(text):
        yield


def tagged(result: PipelineReport, explained: tuple[NodeHistory, ...] = ()) -> tuple[dict[str, Any], str]:
    """Return the report of a tagging pipeline, with how some nodes got their scopes, as data and in one line.

    The line has nodes by evidence, merged nodes, scopes without nodes by reason, those without all their results, and
    renamed tensors.
    """
    from mxtools.passes.record_absent import TagReport
    from mxtools.passes.restore_names import NamesReport

    report = replace(result.last(TagReport), explained=explained)
    renamed = {old: new for names in result.all(NamesReport) for old, new in names.renamed.items()}
    counted = ", ".join(f"{word} {count}" for word, count in report.evidence.items())
    of = f" of {report.part}" if report.part else ""
    parts = [f"{report.nodes} nodes{of}" + (f" ({counted})" if counted else "")]
    if report.merged:
        parts.append(f"{report.merged} merged")
    if report.disagreements:
        parts.append(f"{report.disagreements} not where the exporter says")
    reasons = Counter(reason.partition(":")[0] for reason in report.absent.values())
    if reasons:
        listed = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
        plural = "" if len(report.absent) == 1 else "s"
        parts.append(f"{len(report.absent)} scope{plural} without nodes ({listed})")
    if report.incomplete:
        plural = "" if len(report.incomplete) == 1 else "s"
        parts.append(f"{len(report.incomplete)} scope{plural} of which a part is not in the graph")
    if renamed:
        parts.append(f"{len(renamed)} tensors got their names back")
    return report.to_dict() | {"renamed": renamed}, "; ".join(parts)
