"""What an open file is to the system: a pipe, or a file to any place of which bytes can be written."""

from __future__ import annotations

import io
import os
import shutil
import stat
import sys
from contextlib import suppress
from typing import IO

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]

PIPE_BYTES = 1 << 20
"""The size that a pipe gets, if the system allows it: with the usual 64 KB, each end mostly waits for the other."""


def has_places(file: IO[bytes]) -> bool:
    """Return whether bytes can be written to any place of a file; not with `>> file`, which appends all of them."""
    if fcntl is None or not hasattr(os, "copy_file_range"):
        return False
    is_buffered = isinstance(file, io.BufferedWriter | io.BufferedRandom)
    return is_buffered and file.seekable() and not fcntl.fcntl(file.fileno(), fcntl.F_GETFL) & os.O_APPEND


def receive(pipe: IO[bytes], file: IO[bytes]) -> None:
    """Copy everything from a pipe, or another stream without positions, to an empty file."""
    with suppress(OSError, AttributeError):
        widen(pipe.fileno())
        while os.splice(pipe.fileno(), file.fileno(), PIPE_BYTES):
            pass
    file.seek(0, os.SEEK_END)
    shutil.copyfileobj(pipe, file, PIPE_BYTES)  # the rest, if the system could not


def is_fifo(file: IO[bytes]) -> bool:
    """Return whether an open file is a pipe."""
    with suppress(OSError, AttributeError, ValueError):  # no descriptor
        return stat.S_ISFIFO(os.fstat(file.fileno()).st_mode)
    return False


def widen(pipe: int) -> None:
    """Enlarge a pipe, if the system has room."""
    if sys.platform == "linux" and fcntl is not None:
        with suppress(OSError):
            if fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ) < PIPE_BYTES:
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
