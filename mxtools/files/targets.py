"""Where bytes from a pipe go: a file, or another pipe that somebody may not read."""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from contextlib import suppress
from typing import IO

from mxtools.files.handles import has_places, is_fifo, widen
from mxtools.files.regular import PIECE

PATIENCE = 0.5
"""Seconds for which nobody may take what is written, before the rest of the input is kept."""


class Target:
    """A file to which bytes are written, and moved from a pipe by the system itself, as far as it can."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._has_places = file, has_places(file)
        self._number = -1
        with suppress(OSError, AttributeError, ValueError):  # no descriptor
            self._number = file.fileno()

    def write(self, content: bytes | memoryview) -> None:
        """Write bytes."""
        self._file.write(content)

    def move(self, pipe: IO[bytes], length: int) -> int:
        """Move at most so many bytes from a pipe; return how many, 0 if it has ended."""
        if self._number >= 0:
            self._file.flush()
            at = self._file.tell() if self._has_places else None
            with suppress(OSError):  # a file to which the system cannot move bytes
                if count := os.splice(pipe.fileno(), self._number, length, offset_dst=at):
                    if at is not None:
                        self._file.seek(at + count)
                    return count
        content = os.read(pipe.fileno(), min(PIECE, length))
        self._file.write(content)
        return len(content)


class _PipeTarget(Target):
    """A pipe that somebody may not read: then `soak` is called, which must not wait for that."""

    def __init__(self, file: IO[bytes], soak: Callable[[], None]) -> None:
        super().__init__(file)
        file.flush()
        widen(self._number)
        self._soak, self._is_soaked = soak, False
        self._room = select.poll()
        self._room.register(self._number, select.POLLOUT)

    def write(self, content: bytes | memoryview) -> None:
        left = memoryview(content)
        while left:
            self._wait()
            left = left[os.write(self._number, left[: select.PIPE_BUF]) :]

    def move(self, pipe: IO[bytes], length: int) -> int:
        coming = select.poll()
        coming.register(pipe, select.POLLIN)
        coming.poll()
        if self._wait():
            return 0
        try:
            return os.splice(pipe.fileno(), self._number, length, flags=os.SPLICE_F_NONBLOCK)
        except BrokenPipeError:
            raise
        except OSError:  # as if there were no splice
            content = os.read(pipe.fileno(), min(PIECE, length))
        self.write(content)
        return len(content)

    def _wait(self) -> bool:
        """Wait until the pipe takes bytes; return whether the input was soaked up meanwhile, since nobody read."""
        if self._room.poll(None if self._is_soaked else int(PATIENCE * 1000)):
            return False
        self._soak()
        self._is_soaked = True
        return True


def target_of(file: IO[bytes], soak: Callable[[], None]) -> Target:
    """Return the target for a file; `soak` is called if it is a pipe that nobody reads, and keeps what is to come."""
    return _PipeTarget(file, soak) if is_fifo(file) else Target(file)


def taken(pipe: IO[bytes], length: int) -> bytes:
    """Take a number of bytes out of a pipe; fewer if it ends."""
    parts: list[bytes] = []
    while length > 0 and (part := os.read(pipe.fileno(), min(PIECE, length))):
        parts.append(part)
        length -= len(part)
    return b"".join(parts)
