"""`mx report`."""

from __future__ import annotations

import json as jsons
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from ..common import emit, say
from ..options import Json
from ..streams import check_output, is_pipe, write_text
from ..table import show, show_markdown

if TYPE_CHECKING:
    from pydantic import BaseModel

    from mxtools.fleet.changes import Change
    from mxtools.fleet.folder import Found, Totals
    from mxtools.fleet.job import JobReport

Row = tuple[str, ...]

FIGURES = ("fidelity", "error", "nodes", "bytes")
"""The figures of the table, before seconds and memory."""
COLUMNS = ("model", "exporter", "tool", *FIGURES, "seconds", "memory", "result")
CHANGES = ("model", "exporter", "tool", "change")
TOTALS = ("exporter", "tool", "jobs", "done", "all exact", "fidelity", "seconds", "failed")
NAMES = 3
"""Columns of names, which are aligned to the left."""


def command(
    source: Annotated[Path, Argument(metavar="DIR", help="Folder of the reports.", show_default=False)],
    against: Annotated[
        Path | None,
        Option(metavar="OLD", help="Show what changed since another run: its folder, or what --json wrote of it."),
    ] = None,
    output: Annotated[
        str | None,
        Option(
            "--output", "-o", metavar="FILE.html", help="Also write a page to search and filter.", show_default=False
        ),
    ] = None,
    slower: Annotated[
        float, Option(min=1, metavar="FACTOR", help="With --against: a step may take so many times as long.")
    ] = 1.5,
    larger: Annotated[
        float, Option(min=1, metavar="FACTOR", help="With --against: a step may need so many times the memory.")
    ] = 1.25,
    as_markdown: Annotated[
        bool, Option("--markdown", help="Write a summary as Markdown: totals, failures, what changed.")
    ] = False,
    json: Json = False,
) -> None:
    """Shows a row for each job: a model, an exporter and a tool, with what was measured, or the class of its failure.

    With --against, ends with exit status 1 if a job is missing, fails, or fails otherwise than before, if a figure such
    as the fidelity is worse, or if a step needs much more time or memory. A job that another one's failure blocks is
    not listed.

    Example: mx report jobs --against last-week -o jobs.html
    """
    from mxtools.errors import CheckError, UsageError
    from mxtools.fleet.changes import Tolerances, changes, regressions
    from mxtools.fleet.folder import gather, totals_of

    if output is not None:
        if is_pipe(output):
            raise UsageError("the table and the page would both go to stdout", "give -o FILE.html")
        check_output(output)
    found = gather(source)
    totals = totals_of(found)
    changed = None if against is None else changes(gather(against), found, Tolerances(slower, larger))
    if output is not None:
        _write_page(output, source, found, changed)
    if json:
        emit(_data(found, totals, changed))
    elif as_markdown:
        _show_summary(found, totals, changed)
    elif changed is None:
        show([COLUMNS, *map(_row, (each.job for each in found))], NAMES)
    elif changed:
        show([CHANGES, *map(_change, changed)], NAMES)
    say(f"mx report: {_told(totals[-1])}{_changed(changed)}")
    if changed and (worse := regressions(changed)):
        kinds = Counter(change.what for change in worse)
        listed = ", ".join(f"{what} {count}" for what, count in kinds.items())
        raise CheckError(f"{len(worse)} changes for the worse ({listed})", "see the table")


def _write_page(output: str, source: Path, found: Sequence[Found], changed: Sequence[Change] | None) -> None:
    from mxtools.fleet.page import fleet_page

    folder = source if source.is_dir() else source.parent
    title = source.resolve().name
    write_text(fleet_page(title, found, folder.resolve(), Path(output).resolve().parent, changed), output)


def _data(found: Sequence[Found], totals: Sequence[Totals], changed: Sequence[Change] | None) -> dict[str, object]:
    return {
        "totals": [_plain(each) for each in totals],
        "reports": [{"file": each.file, "job": _plain(each.job)} for each in found],
        "changes": None if changed is None else [_plain(each) for each in changed],
    }


def _plain(record: BaseModel) -> object:
    """Return a record as data for JSON, with infinities as texts."""
    return jsons.loads(record.model_dump_json(by_alias=True))


def _row(job: JobReport) -> Row:
    from mxtools.fleet.texts import figure_text, result_text

    numbers = [figure_text(name, job.figures.get(name)) for name in FIGURES]
    return (*job.key, *numbers, f"{job.seconds:.1f}", figure_text("memory", job.memory), result_text(job))


def _change(change: Change) -> Row:
    from mxtools.fleet.texts import change_text

    return change.model, change.exporter, change.tool, f"{'worse' if change.worse else 'better'}: {change_text(change)}"


def _totals(totals: Totals) -> Row:
    fidelity = "" if totals.fidelity is None else f"{totals.fidelity:.4f}"
    counts = str(totals.jobs), str(totals.done), str(totals.exact), fidelity, f"{totals.seconds:.1f}"
    return totals.exporter, totals.tool, *counts, _by_class(totals)


def _by_class(totals: Totals) -> str:
    return ", ".join(f"{kind} {count}" for kind, count in totals.failed.items())


def _show_summary(found: Sequence[Found], totals: Sequence[Totals], changed: Sequence[Change] | None) -> None:
    """Print the tables of a summary, one below the other."""
    *groups, everything = map(_totals, totals)
    tables: list[list[Row]] = [[TOTALS, *groups, ("all", *everything[1:])]]
    if failed := list(_failures(found)):
        tables.append([("model", "exporter", "tool", "failure"), *failed])
    if changed:
        tables.append([CHANGES, *map(_change, changed)])
    for number, rows in enumerate(tables):
        if number:
            write_text("\n", "-")
        show_markdown(rows, 2 if rows[0] == TOTALS else NAMES)


def _failures(found: Sequence[Found]) -> Iterator[Row]:
    """Yield the failures, but for those that another one's failure blocks."""
    from mxtools.fleet.job import FailureClass
    from mxtools.fleet.texts import result_text

    for each in found:
        if each.job.failure and each.job.failure.kind is not FailureClass.BLOCKED:
            yield *each.job.key, result_text(each.job)


def _told(totals: Totals) -> str:
    failed = totals.jobs - totals.done
    return f"{totals.jobs} jobs, {totals.done} done, {failed} failed" + (f" ({_by_class(totals)})" if failed else "")


def _changed(changed: Sequence[Change] | None) -> str:
    if changed is None:
        return ""
    worse = sum(change.worse for change in changed)
    return f"; {len(changed) - worse} changes for the better, {worse} for the worse" if changed else "; nothing changed"
