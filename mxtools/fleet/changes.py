"""What is worse and what is better between two runs of a fleet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from mxtools.fleet.figures import FIGURES
from mxtools.fleet.folder import Found
from mxtools.fleet.job import Failure, FailureClass, JobReport

LEAST_SECONDS = 1.0
"""A step that takes less longer than this is no slower: starting and the machine's other work take as much."""
LEAST_BYTES = 64 << 20
"""A step that needs less more memory than this needs no more: allocators keep as much."""


class Change(BaseModel):
    """How a job differs from the one before."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings")

    model: str
    exporter: str
    tool: str
    what: Annotated[str, Field(description="job, failure, seconds or memory of a step, or the name of a figure")]
    step: Annotated[str, Field(description="the step, if it is about one")] = ""
    worse: bool
    before: Annotated[float | str | None, Field(description="null if it was not there")]
    after: Annotated[float | str | None, Field(description="null if it is not there")]


@dataclass(frozen=True)
class Tolerances:
    """By what factor a step may be slower, and need more memory, before that counts."""

    slower: float = 1.5
    larger: float = 1.25


def changes(before: Iterable[Found], after: Iterable[Found], tolerances: Tolerances | None = None) -> list[Change]:
    """Return what changed, job by job: what is worse in a job first; jobs that are blocked by another's failure not.

    The failure that blocks is a change of its own, and if that passes, so does what it blocked.
    """
    old, new = ({each.job.key: each.job for each in found} for found in (before, after))
    found: list[Change] = []
    for key in [*old, *(key for key in new if key not in old)]:
        found += sorted(_of_job(old.get(key), new.get(key), tolerances or Tolerances()), key=lambda c: not c.worse)
    return found


def _of_job(before: JobReport | None, after: JobReport | None, tolerances: Tolerances) -> Iterator[Change]:
    if before is None or after is None:
        was, now = (None if job is None else _result(job) for job in (before, after))
        yield _change(before or after, "job", before is not None, was, now)
    elif _is_blocked(before) or _is_blocked(after):
        return
    elif before.failure or after.failure:
        if _cause(before.failure) != _cause(after.failure):
            yield _change(after, "failure", _fails_worse(before, after), _result(before), _result(after))
    else:
        yield from _figures(before, after)
        yield from _costs(before, after, tolerances)


def _figures(before: JobReport, after: JobReport) -> Iterator[Change]:
    for name, figure in FIGURES.items():
        old, new = before.figures.get(name), after.figures.get(name)
        if old is None or new is None:
            if old is not new:
                yield _change(after, name, new is None, old, new)
        elif figure.is_worse(old, new) or figure.is_worse(new, old):
            yield _change(after, name, figure.is_worse(old, new), old, new)


def _costs(before: JobReport, after: JobReport, tolerances: Tolerances) -> Iterator[Change]:
    """Yield the steps that are slower or faster, or need more or less memory."""
    earlier = {step.name: step for step in before.steps}
    for step in after.steps:
        if not (old := earlier.get(step.name)):
            continue
        for what, factor, least, one, two in (
            ("seconds", tolerances.slower, LEAST_SECONDS, old.seconds, step.seconds),
            ("memory", tolerances.larger, LEAST_BYTES, float(old.memory), float(step.memory)),
        ):
            low, high = sorted((one, two))
            if low and high > low * factor and high - low > least:
                yield _change(after, what, two > one, one, two, step.name)


def _change(
    job: JobReport | None,
    what: str,
    worse: bool,
    before: float | str | None,
    after: float | str | None,
    step: str = "",
) -> Change:
    assert job
    return Change(
        model=job.model,
        exporter=job.exporter,
        tool=job.tool,
        what=what,
        step=step,
        worse=worse,
        before=before,
        after=after,
    )


def _is_blocked(job: JobReport) -> bool:
    return job.failure is not None and job.failure.kind is FailureClass.BLOCKED


def _cause(failure: Failure | None) -> tuple[str, FailureClass] | None:
    return (failure.step, failure.kind) if failure else None


def _fails_worse(before: JobReport, after: JobReport) -> bool:
    """Return whether a job fails that did not, or fails otherwise, unless it now gets further than before."""
    if not before.failure or not after.failure:
        return after.failure is not None
    return len(after.steps) <= len(before.steps)


def _result(job: JobReport) -> str:
    return f"{job.failure.step}: {job.failure.kind}".removeprefix(": ") if job.failure else "done"


def regressions(found: Sequence[Change]) -> list[Change]:
    """Return the changes for the worse."""
    return [change for change in found if change.worse]
