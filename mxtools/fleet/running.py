"""Run the jobs of a list one after the other; each leaves a report, whatever becomes of it and of this process.

The report is written before the first step, and says that the job was killed; what is written last stands:

    begun           failure: killed in the first step, attempts 1
    a step ended    failure: killed in the next step
    all steps ended, or one failed
                    the report as it stays
    this process was killed, and runs again
                    begun anew, attempts 2

A job whose report is there, of the same steps and versions, is not done again, also if it failed. One that failed for a
reason that may pass is tried again, until it was tried so often as is allowed.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGTERM, Signals
from typing import IO

from mxtools.errors import InputError
from mxtools.files.atomic import write_text
from mxtools.files.json_text import decoded_or_none
from mxtools.fleet.figures import bytes_of, figures_of
from mxtools.fleet.job import (
    PASSING,
    Failure,
    FailureClass,
    Job,
    JobReport,
    Step,
    StepReport,
    read_report,
    said_by,
    text_of,
)
from mxtools.runtime.children import Ended
from mxtools.strategies.cache import versions

Run = Callable[[Sequence[str], IO[bytes], IO[bytes], float | None], Ended]
"""Runs a command line of `mx`, with files for stdout and stderr, for at most so many seconds."""

ATTEMPTS = 3
"""How often a job is tried that fails for a reason that may pass."""
LOG = 4000
"""Characters of the end of what a step said that its report keeps."""
_BY_STATUS = {
    1: FailureClass.NO,
    2: FailureClass.USAGE,
    3: FailureClass.INPUT,
    4: FailureClass.ABSENT,
    70: FailureClass.FAULT,
    130: FailureClass.INTERRUPTED,
    -SIGINT: FailureClass.INTERRUPTED,
    -SIGTERM: FailureClass.INTERRUPTED,
    -SIGKILL: FailureClass.KILLED,
}


@dataclass
class Outcome:
    """What became of the jobs of a list."""

    done: list[JobReport] = field(default_factory=list)
    """The reports of jobs that were done now."""
    before: list[JobReport] = field(default_factory=list)
    """The reports of jobs that were done before."""
    again: int = 0
    """How many have failed for a reason that may pass, and may be tried again."""

    @property
    def failed(self) -> int:
        """How many have failed, now or before."""
        return sum(report.failure is not None for report in (*self.done, *self.before))


def run_jobs(
    jobs: Sequence[Job],
    run: Run,
    told: Callable[[JobReport], None],
    attempts: int = ATTEMPTS,
    retry_failed: bool = False,
) -> Outcome:
    """Do the jobs that are not done yet, and leave their reports; `told` gets each when it is written.

    With `retry_failed`, those that failed are done again, whatever the reason.
    """
    outcome = Outcome()
    for job in jobs:
        before = _earlier(job)
        if before and _is_current(job, before, attempts) and not (retry_failed and before.failure):
            outcome.before.append(before)
            continue
        report = _Running(job, run, 1 + (before.attempts if before and before.plan == plan_of(job) else 0)).done()
        outcome.done.append(report)
        outcome.again += _may_pass(report, attempts)
        told(report)
    return outcome


def plan_of(job: Job) -> str:
    """Return the digest of what a job does."""
    text = repr([job.needs, job.result, job.pages, [(step.name, step.line) for step in job.steps]])
    return blake2b(text.encode(), digest_size=8).hexdigest()


def _earlier(job: Job) -> JobReport | None:
    """Return the report of a job that is there, None without one that can be read."""
    try:
        return read_report(Path(job.report)) if Path(job.report).exists() else None
    except InputError:
        return None


def _is_current(job: Job, report: JobReport, attempts: int) -> bool:
    """Return whether a report still stands: of these steps and versions, and newer than those that the job needs."""
    if report.plan != plan_of(job) or report.versions != tuple(versions()) or _may_pass(report, attempts):
        return False
    written = Path(job.report).stat().st_mtime_ns
    return all(Path(need).exists() and Path(need).stat().st_mtime_ns <= written for need in job.needs)


def _may_pass(report: JobReport, attempts: int) -> bool:
    return report.failure is not None and report.failure.kind in PASSING and report.attempts < attempts


class _Running:
    """One job while it is done."""

    def __init__(self, job: Job, run: Run, attempt: int) -> None:
        self.job, self.run, self.attempt = job, run, attempt
        self.steps: list[StepReport] = []
        self.figures: dict[str, float] = {}

    def done(self) -> JobReport:
        """Do the steps up to one that fails; return the report, which is written."""
        Path(self.job.report).parent.mkdir(parents=True, exist_ok=True)
        if blocked := self._blocked():
            return self._left(blocked)
        for step in self.job.steps:
            killed = Failure(
                kind=FailureClass.KILLED, step=step.name, status=None, problem="the fleet was killed in it"
            )
            self._left(killed)
            with self._not_counted():
                failure = self._step(step)
            if failure:
                return self._left(failure)
        if self.job.result and (size := bytes_of(Path(self.job.result))):
            self.figures["bytes"] = float(size)
        return self._left(None)

    def _blocked(self) -> Failure | None:
        """Return the failure of a job that needs others, one of which has failed or is not done."""
        for need in self.job.needs:
            found = read_report(Path(need)) if Path(need).exists() else None
            if found is None or found.failure:
                why = f"has failed in {found.failure.step}" if found and found.failure else "is not done"
                return Failure(
                    kind=FailureClass.BLOCKED, step="", status=None, problem=f"{need}, which it needs, {why}"
                )
        return None

    def _step(self, step: Step) -> Failure | None:
        """Run a step; return its failure, None if there is none."""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            ended = self.run(step.line, out, err, self.job.seconds)
            out.seek(0)
            err.seek(0)
            said = err.read()
            if "--json" in step.line:
                self.figures |= figures_of(step.line[0], decoded_or_none(out.read()))
        status = None if ended.out_of_time else ended.status
        self.steps.append(
            StepReport(
                name=step.name, line=step.line, status=status, seconds=round(ended.seconds, 3), memory=ended.memory
            )
        )
        return failure_of(step, ended, said) if ended.status else None

    @contextmanager
    def _not_counted(self) -> Iterator[None]:
        """If the user stops this process in the block, the attempt does not count."""
        try:
            yield
        except KeyboardInterrupt:
            self.attempt -= 1
            self._left(_not_run(FailureClass.INTERRUPTED, "the fleet was stopped"))
            raise

    def _left(self, failure: Failure | None) -> JobReport:
        """Write the report as it is now; return it."""
        job = self.job
        report = JobReport(
            model=job.model,
            exporter=job.exporter,
            tool=job.tool,
            failure=failure,
            steps=tuple(self.steps),
            figures=self.figures,
            pages=tuple(_from(job.report, page) for page in job.pages if Path(page).is_file()),
            attempts=self.attempt,
            plan=plan_of(job),
            versions=tuple(versions()),
        )
        write_text(text_of(report), Path(job.report))
        return report


def failure_of(step: Step, ended: Ended, said: bytes) -> Failure:
    """Return why a step failed, from how its process ended and what it said."""
    if ended.out_of_time:
        kind, problem, remedy = FailureClass.TIMEOUT, f"it took more than {ended.seconds:.0f} s", "let it have more"
    elif ended.status < 0:
        kind = _BY_STATUS.get(ended.status, FailureClass.CRASH)
        problem, remedy = f"its process was ended by {Signals(-ended.status).name}", ""
    else:
        kind = _BY_STATUS.get(ended.status, FailureClass.OTHER)
        problem, remedy = said_by(said, step.line[0])
    log = said.decode(errors="replace")[-LOG:]
    status = None if ended.out_of_time else ended.status
    return Failure(kind=kind, step=step.name, status=status, problem=problem, remedy=remedy, log=log)


def _not_run(kind: FailureClass, problem: str, step: str = "") -> Failure:
    """Return the failure of a step, or a job, that did not come to an end of its own."""
    return Failure(kind=kind, step=step, status=None, problem=problem)


def _from(report: str, page: str) -> str:
    """Return a page's path from the folder of a report."""
    return Path(os.path.relpath(page, Path(report).parent)).as_posix()
