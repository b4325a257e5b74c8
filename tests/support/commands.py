"""Running `mx`: in a child forked from the tests' own process, or in a process of its own.

A forked child has all libraries imported already, so that a command takes as long as its work and not seconds more. It
is as much alone as another process: what it imports, sets or leaves open ends with it. Where that is not enough, as
for a test of what is imported or of environment variables, `separate` starts a process in the usual way.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Protocol

from mxtools.runtime.children import Ended, Limits, watched
from mxtools_cli.forked import FORKS, USES_TORCH, fork, import_for
from tests.support.paths import ENVIRONMENT, ROOT
from tests.support.reports import check_reports

Done = subprocess.CompletedProcess[bytes]

COMMAND = Path(sys.executable).with_name("mx")
FIXED_ORDER = (*USES_TORCH, "wrap", "tune", "batch")
"""Commands that start again with fixed string hashing, unless it is fixed already."""


class Mx(Protocol):
    """Runs `mx` with arguments; the result has returncode, stdout and stderr (bytes)."""

    def __call__(
        self,
        *arguments: object,
        stdin: bytes = b"",
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
        separate: bool = False,
    ) -> Done: ...


def mx(
    *arguments: object,
    stdin: bytes = b"",
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
    separate: bool = False,
) -> Done:
    """Run `mx` in a forked child; with `separate`, or variables for its environment, in a process of its own.

    What a command reports with `--json` must fit the schema in docs/.
    """
    line = [str(argument) for argument in arguments]
    hashed = sys.flags.hash_randomization and any(name in FIXED_ORDER for name in line)
    if separate or env or hashed or not FORKS:
        environment = {**os.environ, **(env or {})}
        done = subprocess.run([COMMAND, *line], input=stdin, capture_output=True, cwd=cwd, env=environment, check=False)
    else:
        import_for(line)
        done = forked(line, stdin, cwd)[0]
    check_reports(line, done)
    return done


def shell(text: str, cwd: Path) -> Done:
    """Run a line of bash in which `mx` is found; it fails where any command of a pipe fails."""
    line = ["bash", "-o", "pipefail", "-c", text]
    return subprocess.run(line, cwd=cwd, env=ENVIRONMENT, capture_output=True, check=False)


def forked(
    line: Sequence[str], stdin: bytes = b"", cwd: Path | None = None, limits: Limits | None = None
) -> tuple[Done, Ended]:
    """Run `mx` in a forked child, which is killed beyond the limits; return what it said, and how it ended."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        reading, writing = os.pipe()

        def prepare() -> None:
            os.close(writing)
            sys.path[:] = [place for place in sys.path if place and Path(place) != ROOT]

        child = fork((reading, out.fileno(), err.fileno()), line, cwd, prepare)
        os.close(reading)
        feeder = threading.Thread(target=_feed, args=(writing, stdin))
        feeder.start()
        ended = watched(child, limits)
        feeder.join()
        return Done(["mx", *line], ended.status, _content(out), _content(err)), ended


def _feed(descriptor: int, data: bytes) -> None:
    """Write all of stdin to a pipe, which the command need not read to its end."""
    with contextlib.suppress(BrokenPipeError), os.fdopen(descriptor, "wb") as pipe:
        pipe.write(data)


def _content(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read()
