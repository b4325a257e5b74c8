"""Temporary files and folders, locked while their process lives, so that the next run can remove what others left.

Temporary files of an output lie beside it, and their names show its name. They are flushed to disk before they are
renamed, and their folder is flushed afterwards. `Scratch` is for files that are not outputs.
"""

from __future__ import annotations

import os
import platform
import re
import secrets
import shutil
import stat
import tempfile
import time
import weakref
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from mxtools.errors import OutputError
from mxtools.files.outputs import MARK

try:
    import fcntl
except ImportError:  # on Windows, which does not remove files that are open
    fcntl = None  # type: ignore[assignment]

LONGEST = 100
"""How many bytes of a file's name its temporary file shows."""
HOST = blake2b(platform.node().encode(), digest_size=2).hexdigest()
"""What the names of this machine's temporary files have in common, four hexadecimal digits."""
_TEMPORARY = re.compile(rf"\.(.*){re.escape(MARK)}([0-9a-f]{{4}})[0-9a-f]{{8}}\.tmp", re.DOTALL)
_SCRATCH = re.compile(r"mxtools-[a-z0-9_]{8}\.tmp")
ABANDONED = 86_400
"""Seconds after which nobody writes to the temporary file of another machine any more."""
PATIENCE = 60
"""Seconds to wait for another process that renames files in the same folder; renaming takes milliseconds."""
PAUSE = 0.01
"""Seconds between two attempts to lock."""


class Scratch:
    """A folder for files that only this process and its children read; it is removed with the block, or the object."""

    def __init__(self) -> None:
        """Make the folder, and remove the folders of this user's processes that were killed."""
        place = Path(tempfile.gettempdir())
        _remove_unlocked(_own(place))
        outer, handle = _locked_folder()
        self._remove = weakref.finalize(self, _remove_locked, outer, handle)
        self.folder = outer / "files"  # inside another folder, which `locked` locks
        self.folder.mkdir()

    def __enter__(self) -> Path:
        """Return the folder."""
        return self.folder

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Remove the folder; OutputError if a file in it could not be written, which names no file."""
        self._remove()
        if isinstance(error, OSError) and error.filename is None and not isinstance(error, BrokenPipeError):
            raise OutputError(
                f"temporary files cannot be written to {self.folder.parent.parent} ({error.strerror or error})",
                "make room, or let TMPDIR name another folder",
            ) from error


def _locked_folder() -> tuple[Path, int | None]:
    """Make a temporary folder and lock it; return it and the lock's handle, None if folders cannot be locked."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix="mxtools-", suffix=".tmp"))
        if fcntl is None:
            return folder, None
        with suppress(FileNotFoundError):  # another process took it for a leftover
            handle = os.open(folder, os.O_RDONLY)
            if _lock(handle) is not False and folder.exists():
                return folder, handle
            os.close(handle)


def _own(place: Path) -> Iterator[Path]:
    """Yield this user's scratch folders in a folder that everybody may use."""
    if fcntl is not None:
        with suppress(OSError), os.scandir(place) as entries:
            for entry in entries:
                if _SCRATCH.fullmatch(entry.name) and entry.stat(follow_symlinks=False).st_uid == os.getuid():
                    yield Path(entry.path)


def _remove_locked(folder: Path, handle: int | None) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if handle is not None:
        os.close(handle)


@contextmanager
def temporary_folder(target: Path) -> Iterator[Path]:
    """Yield a new temporary folder beside a target; it is removed after the block, unless it was renamed."""
    with locked(target.parent):
        remove_leftovers(target.parent, {shown(target.name)})
        place = temporary_name(target)
        place.mkdir()
        handle = os.open(place, os.O_RDONLY) if fcntl else None
        if handle is not None:
            _lock(handle)
    try:
        yield place
    finally:
        _remove_locked(place, handle)


@contextmanager
def temporary(target: Path, locks: bool = True) -> Iterator[tuple[Path, BinaryIO]]:
    """Yield a temporary file beside `target`, as name and file open to write; it is gone after the block.

    Leftovers of earlier runs for the same target are removed. `locks` is false if the folder is locked already.
    """
    with locked(target.parent) if locks else nullcontext():
        if locks:
            remove_leftovers(target.parent, {shown(target.name)})
        name = temporary_name(target)
        handle = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
        _lock(handle)
    try:
        with os.fdopen(handle, "w+b") as file:
            yield name, file
    finally:
        with suppress(FileNotFoundError):
            name.unlink()


def temporary_name(target: Path) -> Path:
    """Return a new name for a temporary file or folder beside a target."""
    return target.with_name(f".{shown(target.name)}{MARK}{HOST}{secrets.token_hex(4)}.tmp")


def shown(name: str) -> str:
    """Return the part of a file's name that its temporary files show."""
    return os.fsdecode(os.fsencode(name)[:LONGEST])


def remove_leftovers(folder: Path, names: Container[str] | None = None) -> None:
    """Remove temporary files and folders of dead processes: those for targets with some names, or all in a folder."""
    with os.scandir(folder) as entries:
        temporaries = ((Path(entry.path), _TEMPORARY.fullmatch(entry.name)) for entry in entries)
        found = [(path, match) for path, match in temporaries if match and (names is None or match[1] in names)]
    _remove_unlocked(path for path, match in found if match[2] == HOST or _is_abandoned(path))


def _is_abandoned(place: Path) -> bool:
    """Return whether another machine's temporary file was not written to for long.

    The locks of one machine are not always seen on another one that shares the file system.
    """
    with suppress(OSError):
        return time.time() - place.stat().st_mtime > ABANDONED
    return False


def _remove_unlocked(places: Iterable[Path]) -> None:
    for place in places:
        with suppress(OSError):
            handle = os.open(place, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
            try:
                if _lock(handle):
                    _remove(place)
            finally:
                os.close(handle)


def _remove(place: Path) -> None:
    shutil.rmtree(place) if place.is_dir() else place.unlink()


@contextmanager
def moved(source: Path, place: Path, early: Path) -> Iterator[None]:
    """Rename a file or folder; inside the block, `early`, a temporary file that names it, gets its own name.

    If this fails, nothing names `place`, and it is removed. If only a later step fails, such as flushing the new name
    to disk, `early` has its name, and what it needs stays.
    """
    replace(source, place)
    try:
        yield
    except BaseException:
        if early.exists():
            _remove(place)
        raise


def _lock(handle: int) -> bool | None:
    """Lock an open file or folder; return False if another has it locked, None if there are no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return None
    return True


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from renaming our files in a folder inside the block, if the folder can be locked.

    Raises OutputError if another process takes too long.
    """
    handle = None
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
    try:
        end = time.monotonic() + PATIENCE
        while handle is not None and _lock(handle) is False:
            if time.monotonic() > end:
                raise OutputError(f"another process is writing to {folder}", "wait for it, or stop it")
            time.sleep(PAUSE)
        yield
    finally:
        if handle is not None:
            os.close(handle)


def seal(file: BinaryIO, target: Path) -> None:
    """Flush a temporary file to disk, with the permissions of the file that it replaces, or of any new file."""
    file.flush()
    try:
        mode = stat.S_IMODE(target.stat().st_mode)
    except FileNotFoundError:
        mode = 0o666 & ~_umask()
    if hasattr(os, "fchmod"):
        os.fchmod(file.fileno(), mode)
    os.fsync(file.fileno())


def replace(source: Path, target: Path) -> None:
    """Rename a file, over another one if there is one, and flush the new name to disk."""
    source.replace(target)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to disk, if the system can."""
    with suppress(PermissionError):  # on Windows, and in folders that cannot be read
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def link_over(source: Path, target: Path) -> None:
    """Give a file another name, in place of an older file of that name; if there are no links, copy it."""
    linked = temporary_name(target)
    try:
        os.link(source, linked)
    except OSError:
        copy_over(source, target)
        return
    try:
        replace(linked, target)
    finally:
        linked.unlink(missing_ok=True)


def copy_over(source: Path, target: Path) -> None:
    """Put a copy of a file in the place of an older file, in a locked folder."""
    with temporary(target, locks=False) as (name, file):
        shutil.copyfile(source, name)
        seal(file, source)
        replace(name, target)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def sync_files(folder: Path) -> None:
    """Flush the files of a folder to disk."""
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        with path.open("rb+") as file:
            os.fsync(file.fileno())
    sync_folder(folder)
