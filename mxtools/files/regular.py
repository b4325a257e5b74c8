"""Regular files, which are opened once and checked on the handle, and their bytes, which are read when needed.

Within a command, files that are read and files that are written (`files/outputs.py`) are noted, so that no file is
both.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, overload

from mxtools.errors import InputError, OutputError
from mxtools.files.handles import has_places, is_fifo, widen

PIECE = 1 << 20
"""Bytes that are read at a time."""
WINDOW = 1 << 14
"""Bytes that are kept around the one that was asked for: enough for many nodes, and not much of a weight."""
CHUNK = 1 << 24
"""Bytes that the system copies at a time. Several threads are no faster: one waits while another writes to its file."""
_NO_WAITING = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
"""Without these, opening a pipe to which nobody writes would wait for ever."""

Identity = tuple[int, int]
"""Device and inode of a file."""
State = tuple[int, int, int, int]
"""Device and inode, size, and time of the last change: another state means other bytes."""


@dataclass
class Command:
    """What one command writes and reads: files by identity, and outputs also by path, since they need not exist yet."""

    outputs: dict[str, tuple[Path, Identity | None]] = field(default_factory=dict)
    """By resolved path: the output as it was given, and the file that is there."""
    replaced: set[Identity] = field(default_factory=set)
    """Models that a result may replace."""
    read: dict[Identity, Path] = field(default_factory=dict)

    def reads(self, found: Identity | None) -> Path | None:
        """Return the path by which a file is read, None if it is not read, or no longer at that path."""
        path = self.read.get(found) if found else None
        return path if path and found and stands_for(path, found) else None


running: ContextVar[Command | None] = ContextVar("command", default=None)


@contextmanager
def one_command() -> Iterator[None]:
    """Inside the block, no file may be both read and written."""
    token = running.set(Command())
    try:
        yield
    finally:
        running.reset(token)


def identity(status: os.stat_result) -> Identity:
    """Return the identity of the file with a status."""
    return status.st_dev, status.st_ino


def state(status: os.stat_result) -> State:
    """Return the state of the file with a status."""
    return *identity(status), status.st_size, status.st_mtime_ns


def note_read(path: Path, status: os.stat_result) -> None:
    """Note that a file is read; OutputError if the command writes it, unless it is the model to be replaced."""
    if (command := running.get()) is None:
        return
    found = identity(status)
    command.read[found] = path
    resolved = os.path.realpath(path)
    for target, (given, there) in command.outputs.items():
        if found not in command.replaced and ((found == there and stands_for(given, found)) or target == resolved):
            raise overwritten(given, path)


def note_output(path: Path, target: Path) -> None:
    """Note that the file `target`, which `path` leads to, is written; OutputError if the command reads it."""
    if (command := running.get()) is None:
        return
    status = status_of(target)
    found = identity(status) if status and stat.S_ISREG(status.st_mode) else None
    command.outputs[str(target)] = path, found
    if found not in command.replaced and (read := command.reads(found)):
        raise overwritten(path, read)


def stands_for(path: Path, found: Identity) -> bool:
    """Return whether a path still leads to a file; if the file is gone, a new one may have its inode by now."""
    status = status_of(path)
    return status is not None and identity(status) == found


def note_reads(paths: Iterable[Path]) -> None:
    """Note files that a library will read; those that do not exist are skipped."""
    for path in paths:
        if (status := status_of(path)) and stat.S_ISREG(status.st_mode):
            note_read(path, status)


def is_read(path: Path) -> bool:
    """Return whether the command reads a file."""
    command, status = running.get(), status_of(path)
    return bool(command and status and command.reads(identity(status)))


def overwritten(output: Path, file: Path) -> OutputError:
    """Return the error for an output that would overwrite a file that is read."""
    return OutputError(f"{output} would overwrite {file}, which the command reads", "give another ⟨output⟩")


def status_of(path: Path | int) -> os.stat_result | None:
    """Return the status of a file, links followed; None if there is none."""
    try:
        return os.stat(path)  # noqa: PTH116 - a file descriptor has no Path
    except (OSError, ValueError):
        return None


def is_device(path: Path) -> bool:
    """Return whether a path is a pipe or a device, such as /dev/null, which is written to directly."""
    status = status_of(path)
    return status is not None and not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode)


class _Opened(io.FileIO):
    """An open file that is closed, without a warning, when nobody refers to it any more."""

    def __del__(self) -> None:
        """Close the file: a model reads its weights as long as it lives."""
        self.close()


def open_regular(path: Path, noted: bool = True) -> io.FileIO:
    """Open a regular file to read; InputError for anything else, OutputError for a file that this command writes.

    Raises OSError as `open` does. `noted` is false for the command's own files, which it both reads and writes. Between
    a check and the opening, a name can come to mean another file, so the open file is checked.
    """
    file = _Opened(os.open(path, os.O_RDONLY | _NO_WAITING), "rb")
    try:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path} is not a regular file", "give a file, or `-` for stdin")
        if noted:
            note_read(path, status)
    except BaseException:
        file.close()
        raise
    return file


def read_bytes(path: Path) -> bytes:
    """Return the bytes of a regular file; InputError if it cannot be read."""
    try:
        return read_regular(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error})", "give a file that exists") from None


def read_regular(path: Path, noted: bool = True) -> bytes:
    """Return the bytes of a regular file; raises what `open_regular` raises."""
    with open_regular(path, noted) as file:
        return file.readall() or b""


def read_toml(path: Path) -> dict[str, Any]:
    """Return the table in a TOML file; InputError if it cannot be read as one."""
    import tomllib

    try:
        return tomllib.loads(read_bytes(path).decode())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as TOML ({error})", "fix it") from None


class FileBytes:
    """The bytes of an open file, read when they are asked for, never mapped.

    If the file becomes shorter, touching a map of it kills the process. Here it is an InputError, and so is any other
    change: programs that write to a file in place would put other bytes where these were.
    """

    _state: State | None = None
    """The state of the file when it was opened; None for what only this process writes to."""

    def __init__(self, file: IO[bytes] | io.FileIO, name: str) -> None:
        """Take an open file, which is kept open; `name` is for messages."""
        self._file, self._name = file, name
        status = os.fstat(file.fileno())
        self._size, self._state = status.st_size, state(status)
        self._base, self._window = 0, b""

    def __len__(self) -> int:
        """Return the size of the file in bytes at the time when it was opened."""
        return self._size

    def is_replaced(self, path: Path) -> bool:
        """Return whether a path leads to another file by now."""
        status = status_of(path)
        return status is not None and identity(status) != identity(os.fstat(self._file.fileno()))

    @overload
    def __getitem__(self, at: int) -> int: ...
    @overload
    def __getitem__(self, at: slice) -> bytes: ...
    def __getitem__(self, at: int | slice) -> int | bytes:
        """Return a byte, or the bytes of a slice without a step; InputError if the file ends before it does."""
        if isinstance(at, slice):
            start, stop = at.start or 0, self._size if at.stop is None else at.stop
            if self._base <= start <= stop <= self._base + len(self._window):
                return self._window[start - self._base : stop - self._base]
            return b"".join(self.pieces(start, stop - start))
        self._look_at(at)
        return self._window[at - self._base]

    def at_hand(self, at: int) -> memoryview:
        """Return some bytes from a place on: those that are in memory already, or else as many as are read at once."""
        self._look_at(at)
        return memoryview(self._window)[at - self._base :]

    def pieces(self, start: int, length: int) -> Iterator[bytes]:
        """Yield a number of bytes, from a place on, piece by piece; only one piece is in memory at a time."""
        for at in range(start, start + length, PIECE):
            yield self._read(at, min(PIECE, start + length - at))

    def write_to(self, file: IO[bytes], start: int, length: int) -> None:
        """Write a number of bytes, from a place on, to a file; if the system can, it copies them itself."""
        if isinstance(file, Comparison) and file.passed(self, start, length):
            return
        done = 0
        if length > PIECE:
            done = (_copied if has_places(file) else _spliced)(self, start, length, file)
        file.writelines(self.pieces(start + done, length - done))
        self._check()

    def fileno(self) -> int:
        """Return the descriptor of the file."""
        return self._file.fileno()

    def _look_at(self, at: int) -> None:
        """Move the window to a byte, if it is not there already."""
        if not 0 <= at - self._base < len(self._window):
            self._base, self._window = self._around(at)

    def _around(self, at: int) -> tuple[int, bytes]:
        """Return a window with a byte in it: where it starts, and its bytes."""
        return at, self._read(at, min(WINDOW, self._size - at))

    def _read(self, at: int, length: int) -> bytes:
        try:
            found = _read_at(self._file, at, length)
            while 0 < len(found) < length and (more := _read_at(self._file, at + len(found), length - len(found))):
                found += more
        except OSError as error:
            raise InputError(f"{self._name} cannot be read ({error.strerror or error})", "read it again") from None
        if len(found) < length:
            raise InputError(
                f"{self._name} became shorter while the command read it", "do not write to the file meanwhile"
            )
        self._check()
        return found

    def _check(self) -> None:
        """Raise InputError if somebody wrote to the file since it was opened, so that its bytes may be others."""
        if self._state and state(os.fstat(self._file.fileno())) != self._state:
            raise InputError(f"{self._name} was written to since it was opened", "read it again")


Bytes = FileBytes | memoryview
"""The bytes of a file, or bytes in memory."""


def _read_at(file: IO[bytes] | io.FileIO, at: int, length: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(file.fileno(), length, at)
    file.seek(at)  # on Windows
    return file.read(length) or b""


def _copied(source: FileBytes, start: int, length: int, file: IO[bytes]) -> int:
    """Let the system copy bytes from one file to another, as far as it can; return how many it copied.

    The bytes do not pass through this process, and file systems in which files can share blocks copy nothing at all.
    After each chunk, the system is told that its pages are no longer needed, so it begins to write them to disk.
    Flushing the file later (`temporary.seal`) then takes less time. Pages that are not written yet stay.
    """
    done, target = 0, file.fileno()
    file.flush()
    at = file.tell()
    with suppress(OSError):  # if it fails, the usual way will say why
        while done < length:
            wanted = min(length, (done // CHUNK + 1) * CHUNK) - done
            count = os.copy_file_range(source.fileno(), target, wanted, start + done, at + done)
            done += count
            if not count:
                break
            if count == wanted:
                os.posix_fadvise(target, at + done - wanted, wanted, os.POSIX_FADV_DONTNEED)
    file.seek(at + done)
    return done


class DifferentError(Exception):
    """The file has other bytes than would be written to it."""


class Comparison(io.RawIOBase):
    """A file to write that compares the bytes with those of another file; raises DifferentError if they differ."""

    def __init__(self, there: IO[bytes]) -> None:
        """Take the other file, open to read."""
        self._there = there

    def write(self, data: bytes | memoryview) -> int:  # type: ignore[override]
        """Compare bytes."""
        if self._there.read(len(data)) != data:
            raise DifferentError
        return len(data)

    def passed(self, source: FileBytes, start: int, length: int) -> bool:
        """Move on behind bytes that lie in the other file itself, at its position; return whether they do."""
        there = os.fstat(self._there.fileno())
        is_itself = identity(os.fstat(source.fileno())) == identity(there) and self._there.tell() == start
        if is_itself and start + length <= there.st_size:
            self._there.seek(start + length)
            return True
        return False

    def tell(self) -> int:
        """Return the position in the other file."""
        return self._there.tell()


def reserve(file: IO[bytes], length: int) -> None:
    """Tell the system how many bytes are about to be written to a file, if they are many; it finds blocks faster."""
    if length > PIECE and has_places(file):
        file.flush()
        with suppress(OSError):
            os.posix_fallocate(file.fileno(), file.tell(), length)


def _spliced(source: FileBytes, start: int, length: int, pipe: IO[bytes]) -> int:
    """Let the system put the pages of a file into a pipe, as far as it can; return how many bytes it put there."""
    done = 0
    with suppress(OSError, AttributeError):  # AttributeError if there is no splice, or no file behind the stream
        if is_fifo(pipe):
            pipe.flush()
            widen(pipe.fileno())
            while done < length and (count := os.splice(source.fileno(), pipe.fileno(), length - done, start + done)):
                done += count
    return done
