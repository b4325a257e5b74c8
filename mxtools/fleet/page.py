"""The page of a fleet: a row for each job, to search, filter and sort, with links to the pages of the models."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mxtools.files.json_text import finite
from mxtools.fleet.changes import Change
from mxtools.fleet.folder import Found
from mxtools.fleet.texts import change_text
from mxtools.views.standalone import page

COLUMNS = (
    ("fidelity", "share"),
    ("error", "error"),
    ("invalid", "count"),
    ("nodes", "count"),
    ("bytes", "bytes"),
    ("seconds", "seconds"),
    ("memory", "bytes"),
)
"""The numbers of a row, and the form in which the script shows each."""


def fleet_page(
    title: str, found: Sequence[Found], folder: Path, place: Path, changes: Sequence[Change] | None = None
) -> str:
    """Return the page of reports in `folder`, for a file in the folder `place`, from which its links lead."""
    by_job: dict[tuple[str, str, str], list[Change]] = {}
    for change in changes or ():
        by_job.setdefault((change.model, change.exporter, change.tool), []).append(change)
    gone = [key for key in by_job if key not in {each.job.key for each in found}]
    rows = [_row(each, folder, place, by_job.get(each.job.key, ())) for each in found]
    rows += [_missing(key, by_job[key]) for key in gone]
    data = {"columns": COLUMNS, "jobs": rows, "against": changes is not None}
    return page("mxtools.fleet", "fleet.html", "fleet.css", ["fleet.js"], title, data)


def _row(found: Found, folder: Path, place: Path, changes: Sequence[Change]) -> dict[str, Any]:
    job, file = found.job, folder / found.file
    values = {**job.figures, "seconds": job.seconds, "memory": float(job.memory)}
    failure = job.failure
    return {
        **_named(job.key, changes),
        "kind": failure.kind if failure else "",
        "step": failure.step if failure else "",
        "problem": failure.problem if failure else "",
        "remedy": failure.remedy if failure else "",
        "log": failure.log if failure else "",
        "figures": [None if name not in values else finite(values[name]) for name, _ in COLUMNS],
        "pages": [(Path(name).stem, _link(file.parent / name, place)) for name in job.pages],
        "steps": [(s.name, shlex.join(("mx", *s.line)), s.status, s.seconds, s.memory) for s in job.steps],
        "attempts": job.attempts,
        "file": _link(file, place),
    }


def _missing(key: tuple[str, str, str], changes: Sequence[Change]) -> dict[str, Any]:
    """Return the row of a job that is only in the earlier run."""
    texts = dict.fromkeys(("step", "problem", "remedy", "log", "file"), "")
    numbers = {"figures": [None] * len(COLUMNS), "pages": [], "steps": [], "attempts": 0}
    return {**_named(key, changes), "kind": "missing", **texts, **numbers}


def _named(key: tuple[str, str, str], changes: Sequence[Change]) -> dict[str, Any]:
    names = dict(zip(("model", "exporter", "tool"), key, strict=True))
    return names | {"changes": [(change_text(change), change.worse) for change in changes]}


def _link(file: Path, place: Path) -> str:
    """Return a link to a file, relative to the folder of the page, so that both can be moved together."""
    return quote(Path(os.path.relpath(file, place)).as_posix())
