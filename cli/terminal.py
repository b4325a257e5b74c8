"""What a process may lack when it starts: open streams, an encoding for all characters, a user who waits.

A shell can close a stream (`>&-`). Then Python has None in its place, and gives its number to the next file that is
opened. A terminal or a variable can ask for an encoding that lacks characters. The user can interrupt at any moment.
"""

from __future__ import annotations

import atexit
import errno
import os
import signal
import sys
from contextlib import suppress
from typing import IO, Any, NoReturn

INTERRUPTED = 130
BROKEN_PIPE = 141

_interrupted = False


def prepare_streams() -> None:
    r"""Make all three streams usable; characters that their encoding lacks are written out, as `\u2514`."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if not _is_open(number):
            # A stream that was closed for writing stays unwritable: messages may be lost, but data must not be.
            os.dup2(os.open(os.devnull, os.O_WRONLY if number == 2 else os.O_RDONLY), number)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115 - open to the end
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):  # a stream of a program that calls this as a library
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def drop_output() -> None:
    """Discard what stdout has not written yet: Python would write it at its end, and complain again."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.stdout.flush()


def is_broken_pipe(error: BaseException | None) -> bool:
    """Return whether an error means that nobody reads stdout any more."""
    return isinstance(error, OSError) and error.errno == errno.EPIPE


def end_at_once() -> None:
    """Let an interrupt end the process at once: while libraries are imported, there is nothing to clean up."""
    with suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGINT, _end)


def leave(status: object) -> NoReturn:
    """End the process with an exit status, as `sys.exit` does, but without freeing every object first.

    What was registered for the end runs, and then the system takes all memory back at once. Python would free modules
    and objects one by one, which takes longer than `mx filter` works on a small model.
    """
    if _interrupted and (stream := sys.modules.get("mxtools.files.stream")):
        stream.abandon()
    atexit._run_exitfuncs()
    leave_at_once(status)


def leave_at_once(status: object) -> NoReturn:
    """End the process with an exit status, with what was printed, but with nothing that was registered for the end."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status if isinstance(status, int) else int(status is not None))


def interrupt_cleanly() -> None:
    """Let an interrupt raise KeyboardInterrupt, so that temporary files are removed; it is remembered."""
    with suppress(ValueError):
        signal.signal(signal.SIGINT, _interrupt)


def was_interrupted() -> bool:
    """Return whether the user interrupted, since libraries turn KeyboardInterrupt into errors of their own."""
    return _interrupted


def _end(number: int, frame: Any) -> NoReturn:  # noqa: ARG001 - signal's signature
    os._exit(INTERRUPTED)


def _interrupt(number: int, frame: Any) -> NoReturn:  # noqa: ARG001 - signal's signature
    global _interrupted
    _interrupted = True
    raise KeyboardInterrupt


def write_data(data: bytes) -> None:
    """Write bytes to stdout, after the text that was printed before."""
    sys.stdout.flush()
    stream: IO[bytes] | None = getattr(sys.stdout, "buffer", None)
    if stream is None:  # a stream of a program that calls this as a library
        sys.stdout.write(data.decode())
        return
    stream.write(data)
    stream.flush()
