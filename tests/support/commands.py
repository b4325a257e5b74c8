"""Running `mx`: in a child forked from the tests' own process, or in a process of its own.

A forked child has all libraries imported already, so that a command takes as long as its work and not seconds more. It
is as much alone as another process: what it imports, sets or leaves open ends with it. Where that is not enough, as
for a test of what is imported or of environment variables, `separate` starts a process in the usual way.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import pkgutil
import subprocess
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import IO, NoReturn, Protocol

from tests.support.children import Ended, Limits, watched
from tests.support.paths import ENVIRONMENT, ROOT
from tests.support.reports import check_reports

Done = subprocess.CompletedProcess[bytes]

COMMAND = Path(sys.executable).with_name("mx")
USES_TORCH = ("demo", "trace", "export", "auto", "recommend", "bench")
FIXED_ORDER = (*USES_TORCH, "wrap", "tune")
"""Commands that start again with fixed string hashing, unless it is fixed already."""

FORKS = sys.platform == "linux"
"""Elsewhere libraries do not work in a forked child, or there are none."""
WITH_TORCH = ("mxtools.pytorch", "mxtools.unified_export", "mxtools.strategy_selector")
"""Modules that import PyTorch."""


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


def import_for(line: Sequence[str]) -> None:
    """Import what a command uses, so that no child has to do it again."""
    _import_libraries()
    if importlib.util.find_spec("torch") and any(name in USES_TORCH for name in line) and "--help" not in line:
        _import_torch()
        if "trace" not in line and "torchscript" not in line:
            _warm_up_dynamo()


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
        child = os.fork()
        if not child:
            os.close(writing)
            if limits:
                os.setpgid(0, 0)
            _become_mx(line, (reading, out.fileno(), err.fileno()), cwd)
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


def _become_mx(line: Sequence[str], descriptors: Sequence[int], cwd: Path | None) -> NoReturn:
    """Do what a process `mx` does from its start to its end."""
    status: object = 1
    try:
        for target, descriptor in enumerate(descriptors):
            os.dup2(descriptor, target)
        _as_at_the_start()
        sys.argv = ["mx", *line]
        if cwd:
            os.chdir(cwd)
        from mxtools_cli.main import main

        main()
        status = 0
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status if isinstance(status, int) else int(status is not None))


def _as_at_the_start() -> None:
    """Set up what Python sets up at its start, and pytest sets up otherwise: streams, warnings, logging, paths."""
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - open to the end, as the next two
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr  # type: ignore[misc]
    warnings.showwarning = _show_warning
    warnings.resetwarnings()
    for ignored in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
        warnings.simplefilter("ignore", ignored)
    for handler in _stream_handlers():
        handler.setStream(sys.stderr)
    sys.path[:] = [place for place in sys.path if place and Path(place) != ROOT]


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: IO[str] | None = None,
    line: str | None = None,
) -> None:
    (file or sys.stderr).write(warnings.formatwarning(message, category, filename, lineno, line))


def _stream_handlers() -> Iterator[logging.StreamHandler[IO[str]]]:
    """Yield what libraries log through; what pytest added to the root logger is removed."""
    logging.root.handlers.clear()
    for logger in logging.root.manager.loggerDict.values():
        for handler in getattr(logger, "handlers", ()):
            if type(handler) is logging.StreamHandler:
                yield handler


@cache
def _import_libraries() -> None:
    """Import what commands without PyTorch use, so that no child has to do it again."""
    import onnxruntime  # noqa: F401

    import mxtools
    import mxtools_cli

    for package in (mxtools, mxtools_cli):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.startswith(WITH_TORCH) and not module.name.endswith("__main__"):
                importlib.import_module(module.name)


@cache
def _import_torch() -> None:
    """Import what commands with PyTorch use."""
    import torch.onnx  # noqa: F401
    import transformers.generation.utils
    import transformers.modeling_utils  # noqa: F401

    from mxtools import pytorch

    for module in pkgutil.walk_packages(pytorch.__path__, f"{pytorch.__name__}."):
        importlib.import_module(module.name)


@cache
def _warm_up_dynamo() -> None:
    """Let torch.export run once: what it imports, and reads of its operators, takes seconds."""
    import torch

    from mxtools.runtime.quiet import quiet

    with quiet():
        torch.onnx.export(torch.nn.Linear(2, 2), (torch.ones(1, 2),), dynamo=True, verbose=False)
