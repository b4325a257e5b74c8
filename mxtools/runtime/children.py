"""Children that may hang, grow or die: forked with a process group of their own, watched, and killed with it."""

from __future__ import annotations

import gc
import os
import select
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

GLANCE = 0.1
"""Seconds between two looks at how large a child is."""


@dataclass(frozen=True)
class Limits:
    """Where a child is killed."""

    seconds: float
    memory: int | None = None
    """Bytes of resident memory."""


@dataclass(frozen=True)
class Ended:
    """How a child ended: its status, negative for a signal, the time it took, and how large it was at most."""

    status: int
    seconds: float
    busy: float
    """Seconds of processor time, which do not depend on what else the machine does."""
    memory: int
    out_of_time: bool = False
    """Whether it was killed because it took too long."""


def watched(child: int, limits: Limits | None) -> Ended:
    """Wait for a child; kill its process group, which it must lead, where it goes beyond the limits."""
    start, late = time.monotonic(), False
    handle = os.pidfd_open(child)
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        while limits and not poll.poll(1000 * GLANCE):
            late = time.monotonic() - start > limits.seconds
            if late or (limits.memory is not None and _resident(child) > limits.memory):
                break
        if limits:
            with suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)  # also what it started and left behind
        _, status, used = os.wait4(child, 0)
    finally:
        os.close(handle)
    busy = used.ru_utime + used.ru_stime
    return Ended(os.waitstatus_to_exitcode(status), time.monotonic() - start, busy, used.ru_maxrss << 10, late)


def _resident(child: int) -> int:
    try:
        return int(Path(f"/proc/{child}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def stand_alone() -> None:
    """Make a forked child independent: it leads a group of processes, and shares no lock with others.

    The progress bars of tqdm share a lock with the processes that are forked: if one of these is killed while it holds
    the lock, all others wait for it forever. And what the parent left is not collected here: a session of ONNX Runtime
    would wait for threads that only the parent has.
    """
    os.setpgid(0, 0)
    gc.freeze()
    if "tqdm" in sys.modules:
        sys.modules["tqdm"].tqdm.set_lock(threading.RLock())


def answered(work: Callable[[], str], limits: Limits) -> tuple[str | None, Ended]:
    """Return the text that a function returns in a child, None where the child did not get that far."""
    with tempfile.TemporaryFile() as file:
        child = os.fork()
        if not child:
            _answer(work, file.fileno())
        ended = watched(child, limits)
        file.seek(0)
        return (file.read().decode() if ended.status == 0 else None), ended


def _answer(work: Callable[[], str], handle: int) -> NoReturn:
    status = 1
    try:
        stand_alone()
        os.write(handle, work().encode(errors="replace"))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)
