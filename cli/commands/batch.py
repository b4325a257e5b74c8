"""`mx batch`."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, NoReturn

from typer import Argument, Option

from ..common import emit, say
from ..options import Json

if TYPE_CHECKING:
    from mxtools.fleet.job import JobReport
    from mxtools.fleet.running import Run
    from mxtools.runtime.children import Ended


def command(
    source: Annotated[Path, Argument(metavar="JOBS", help="The jobs, JSON or TOML.", show_default=False)],
    attempts: Annotated[
        int, Option(min=1, metavar="N", help="How many times to try a job that was killed or took too long.")
    ] = 3,
    separate: Annotated[
        bool, Option("--separate", help="Start a process for each step, which imports its libraries itself.")
    ] = False,
    retry_failed: Annotated[
        bool, Option("--retry-failed", help="Also retry jobs that failed before, whatever the reason.")
    ] = False,
    exit_zero: Annotated[
        bool, Option("--exit-zero", help="End with exit status 0 even if jobs failed, unless some can be retried.")
    ] = False,
    json: Json = False,
) -> None:
    """Runs each step, a command of mx, in a child process: libraries are imported once, and a crash ends only one step.

    A job is a model, an exporter and a tool. It leaves a report, even if it fails: the class of the failure, its
    message and its log, times, memory and figures. `mx report` reads the reports.

    A job is skipped if its report is of the same steps and versions, and newer than those of the jobs that it needs.
    Run the command again to retry jobs that were killed or took too long, and add --retry-failed to retry all that
    failed. Ends with exit status 1 if jobs failed, now or before.

    Example: mx batch jobs.toml
    """
    from mxtools.errors import CheckError
    from mxtools.fleet.job import read_jobs
    from mxtools.fleet.running import run_jobs

    jobs = read_jobs(source).jobs
    signal.signal(signal.SIGTERM, _stop)  # as a cluster ends a job
    outcome = run_jobs(jobs, _run(separate), _tell, attempts, retry_failed)
    done, before, failed = len(outcome.done), len(outcome.before), outcome.failed
    if json:
        emit({"done": done, "failed": failed, "before": before, "again": outcome.again})
    else:
        say(f"mx batch: {done} jobs done, {before} were done before; {failed} of all {done + before} failed")
    if outcome.again:
        raise CheckError(f"{outcome.again} jobs were killed or took too long", "run the command again")
    if failed and not exit_zero:
        raise CheckError(f"{failed} jobs failed", "see the reports; when the cause is gone, add --retry-failed")


def _run(separate: bool) -> Run:
    """Return what runs a command of mx."""
    from .. import forked

    if separate or not forked.FORKS:
        return forked.separate

    def run(line: Sequence[str], out: IO[bytes], err: IO[bytes], seconds: float | None) -> Ended:
        forked.import_for(line)  # what is imported already takes no time
        return forked.forked(line, out, err, seconds)

    return run


def _tell(report: JobReport) -> None:
    """Say what became of a job."""
    from mxtools.fleet.texts import result_text

    say(f"mx batch: {' '.join(filter(None, report.key))}: {result_text(report)} ({report.seconds:.1f} s)")


def _stop(number: int, frame: Any) -> NoReturn:  # noqa: ARG001 - signal's signature
    raise KeyboardInterrupt
