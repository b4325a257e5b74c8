"""The reports of a folder: found, read, ordered, and counted."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mxtools.errors import InputError, UsageError
from mxtools.files.json_text import validated
from mxtools.files.regular import read_bytes
from mxtools.fleet.job import ENDING, JobReport, read_report


class Found(BaseModel):
    """A report, and where it was found."""

    model_config = ConfigDict(frozen=True)

    file: Annotated[str, Field(description="the report's file, from the folder")]
    job: JobReport


class Totals(BaseModel):
    """The jobs of an exporter and a tool, counted."""

    model_config = ConfigDict(frozen=True)

    exporter: str
    tool: str
    jobs: int
    done: int
    failed: Annotated[dict[str, int], Field(description="by class")]
    exact: Annotated[int, Field(description="jobs of which every module call is exact")]
    fidelity: Annotated[float | None, Field(description="mean of the jobs that have it")]
    seconds: float


class Gathered(BaseModel):
    """What `mx report --json` writes, and `--against` reads."""

    model_config = ConfigDict(frozen=True)

    totals: tuple[Totals, ...]
    reports: tuple[Found, ...]


def gather(place: Path) -> list[Found]:
    """Return the reports of a folder, or of a file that `mx report --json` wrote, in the order of models.

    Raises UsageError if there is none, or two are of one job, InputError if one cannot be read.
    """
    if place.is_file():
        found = list(_of_file(place))
    elif place.is_dir():
        found = [Found(file=at.relative_to(place).as_posix(), job=read_report(at)) for at in _files(place)]
    else:
        raise InputError(f"there is no folder {place}", "give the folder with the reports of jobs")
    if not found:
        raise UsageError(f"{place} has no file *{ENDING}", "give the folder with the reports of jobs")
    _require_one_each(found)
    return sorted(found, key=lambda each: [_natural(part) for part in each.job.key])


def totals_of(found: Iterable[Found]) -> list[Totals]:
    """Return the totals of each exporter and tool, and those of all, which have neither, last."""
    groups: dict[tuple[str, str], list[JobReport]] = {}
    jobs = [each.job for each in found]
    for job in jobs:
        groups.setdefault((job.exporter, job.tool), []).append(job)
    return [_totals(*key, group) for key, group in sorted(groups.items())] + [_totals("", "", jobs)]


def _totals(exporter: str, tool: str, jobs: list[JobReport]) -> Totals:
    rates = [job.figures["fidelity"] for job in jobs if not job.failure and "fidelity" in job.figures]
    failed = Counter(job.failure.kind.value for job in jobs if job.failure)
    return Totals(
        exporter=exporter,
        tool=tool,
        jobs=len(jobs),
        done=sum(not job.failure for job in jobs),
        failed=dict(sorted(failed.items())),
        exact=sum(rate == 1 for rate in rates),
        fidelity=sum(rates) / len(rates) if rates else None,
        seconds=sum(job.seconds for job in jobs),
    )


def _of_file(place: Path) -> Iterator[Found]:
    try:
        yield from validated(Gathered, read_bytes(place), str(place)).reports
    except ValidationError:
        raise InputError(
            f"{place} is no summary of reports in JSON", "give one, or the folder with the reports of jobs"
        ) from None


def _files(folder: Path) -> Iterator[Path]:
    """Yield the reports of a folder and of those in it, not through links."""
    for place, folders, files in os.walk(folder):
        folders.sort()
        yield from (Path(place, name) for name in sorted(files) if name.endswith(ENDING))


def _require_one_each(found: list[Found]) -> None:
    known: dict[tuple[str, str, str], Found] = {}
    for each in found:
        if (other := known.setdefault(each.job.key, each)) is not each:
            raise UsageError(
                f"{other.file} and {each.file} are of one job ({' '.join(filter(None, each.job.key))})",
                "give the folder of one run",
            )


def _natural(text: str) -> list[tuple[int, str]]:
    """Return a key by which numbers in texts sort as numbers: `bert-2` before `bert-10`."""
    parts = re.split(r"(\d{1,18})", text)  # every second one is a number
    return [(int(part), "") if place % 2 else (-1, part) for place, part in enumerate(parts)]
