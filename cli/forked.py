"""Running `mx` many times: in children forked from this process, which has imported what they use, or as processes.

A forked child has all libraries imported already, so that a command takes as long as its work and not seconds more. It
is as much alone as another process: what it imports, sets or leaves open ends with it, and if it crashes, only it ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.util
import logging
import os
import pkgutil
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import IO, NoReturn

from mxtools.runtime.children import Ended, Limits, stand_alone, watched
from mxtools.runtime.session_values import onnx_runtime

from .terminal import leave_at_once

FORKS = sys.platform == "linux"
"""Elsewhere libraries do not work in a forked child, or there are none."""
USES_TORCH = ("demo", "trace", "export", "auto", "recommend", "bench")
WITH_TORCH = ("mxtools.pytorch", "mxtools.unified_export", "mxtools.strategy_selector")
"""Modules that import PyTorch."""
_END_WITH_PARENT = 1
"""PR_SET_PDEATHSIG of prctl(2)."""


def forked(line: Sequence[str], out: IO[bytes], err: IO[bytes], seconds: float | None = None) -> Ended:
    """Run `mx` in a forked child, which is killed after so many seconds."""
    with Path(os.devnull).open("rb") as nothing:
        child = fork((nothing.fileno(), out.fileno(), err.fileno()), line)
    return _waited_for(child, seconds)


def fork(
    descriptors: Sequence[int], line: Sequence[str], cwd: Path | None = None, prepare: Callable[[], None] | None = None
) -> int:
    """Start `mx` in a forked child, which leads a group of processes, with descriptors for its streams; return its id.

    `prepare` is called in the child before anything else.
    """
    parent = os.getpid()
    child = os.fork()
    if not child:
        _become_mx(line, descriptors, cwd, prepare, parent)
    return child


def separate(line: Sequence[str], out: IO[bytes], err: IO[bytes], seconds: float | None = None) -> Ended:
    """Run `mx` in a process of its own, which is killed after so many seconds."""
    start = time.monotonic()
    command = [sys.executable, "-m", "mxtools_cli", *line]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=FORKS)
    if FORKS:
        process.returncode = 0  # it is waited for here
        return _waited_for(process.pid, seconds)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return Ended(_killed(process), time.monotonic() - start, 0, 0, out_of_time=True)
    except BaseException:
        _killed(process)
        raise
    return Ended(process.returncode, time.monotonic() - start, 0, 0)


def _killed(process: subprocess.Popen[bytes]) -> int:
    process.kill()
    return process.wait()


def _waited_for(child: int, seconds: float | None) -> Ended:
    """Wait for a child that leads a group of processes; if this process is interrupted, the group is killed."""
    try:
        return watched(child, None if seconds is None else Limits(seconds))
    except BaseException:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
        raise


def import_for(line: Sequence[str]) -> None:
    """Import what a command uses, so that no child has to do it again."""
    _import_libraries()
    if importlib.util.find_spec("torch") and any(name in USES_TORCH for name in line) and "--help" not in line:
        _import_torch()
        if "trace" not in line and "torchscript" not in line:
            _warm_up_dynamo()


def _become_mx(
    line: Sequence[str], descriptors: Sequence[int], cwd: Path | None, prepare: Callable[[], None] | None, parent: int
) -> NoReturn:
    """Do what a process `mx` does from its start to its end."""
    status: object = 1
    try:
        stand_alone()
        _end_with(parent)
        if prepare:
            prepare()
        for target, descriptor in enumerate(descriptors):
            os.dup2(descriptor, target)
        _as_at_the_start()
        sys.argv = ["mx", *line]
        if cwd:
            os.chdir(cwd)
        from .main import main

        main()
        status = 0
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        leave_at_once(status)


def _end_with(parent: int) -> None:
    """Let this child be killed when its parent ends, however that ends: nobody else would wait for it."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_END_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:  # it ended in between
        os._exit(1)


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
    """Yield what libraries log through; what was added to the root logger is removed."""
    logging.root.handlers.clear()
    for logger in logging.root.manager.loggerDict.values():
        for handler in getattr(logger, "handlers", ()):
            if type(handler) is logging.StreamHandler:
                yield handler


@cache
def _import_libraries() -> None:
    """Import what commands without PyTorch use, so that no child has to do it again."""
    onnx_runtime()

    import mxtools

    for package in (mxtools, importlib.import_module(str(__package__))):
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
