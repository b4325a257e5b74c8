"""Temporary files and folders: locked while their process lives, so that the next run removes what a killed one left.

Those of an output lie beside it, and their names tell of what they are; it is brought to the disk before it is renamed,
and the names in its folder after. `Scratch` is for files that are no output.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
import tempfile
import time
import weakref
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
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
"""Bytes of a file's name that the name of a temporary file shows."""
_TEMPORARY = re.compile(rf"\.(.*){re.escape(MARK)}[0-9a-f]{{8}}\.tmp", re.DOTALL)
_SCRATCH = re.compile(r"mxtools-[a-z0-9_]{8}\.tmp")
PATIENCE = 60
"""Seconds to wait for another process that renames files in the same folder, which takes milliseconds."""
PAUSE = 0.01
"""Seconds between two attempts to lock."""


class Scratch:
    """A folder for files that only this process and its children read, gone after the block, or with the object."""

    def __init__(self) -> None:
        """Make the folder, and remove those of processes of the same user that were killed."""
        place = Path(tempfile.gettempdir())
        _remove_unlocked(_own(place))
        outer, handle = _locked_folder()
        self._remove = weakref.finalize(self, _remove_locked, outer, handle)
        self.folder = outer / "files"  # a folder of its own, as `locked` locks that
        self.folder.mkdir()

    def __enter__(self) -> Path:
        """Return the folder."""
        return self.folder

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Remove the folder."""
        self._remove()


def _locked_folder() -> tuple[Path, int | None]:
    """Make a temporary folder; return it and the handle that it is locked by, None if folders cannot be locked."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix="mxtools-", suffix=".tmp"))
        if fcntl is None:
            return folder, None
        with suppress(FileNotFoundError):  # another process took it for a left one
            handle = os.open(folder, os.O_RDONLY)
            if _lock(handle) is not False and folder.exists():
                return folder, handle
            os.close(handle)


def _own(place: Path) -> Iterator[Path]:
    """Yield the scratch folders of this user in a folder that may be everybody's."""
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
    """Yield a new temporary folder beside a target, which is gone after the block, if it was not renamed."""
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
    """Yield the name of a temporary file beside `target` and the file, open to write; both are gone after the block.

    What an earlier run left of the same target is removed. `locks` is false if the folder is locked already.
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
    return target.with_name(f".{shown(target.name)}{MARK}{secrets.token_hex(4)}.tmp")


def shown(name: str) -> str:
    """Return what the names of temporary files show of a file's name."""
    return os.fsdecode(os.fsencode(name)[:LONGEST])


def remove_leftovers(folder: Path, names: Container[str] | None = None) -> None:
    """Remove temporary files and folders, of targets of some names or all in a folder, whose process is dead."""
    with os.scandir(folder) as entries:
        temporaries = ((Path(entry.path), _TEMPORARY.fullmatch(entry.name)) for entry in entries)
        found = [path for path, match in temporaries if match and (names is None or match[1] in names)]
    _remove_unlocked(found)


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
    """Rename a file or folder for a block in which `early`, a temporary file that names it so, gets its own name.

    If that fails, nobody names `place`, and it is removed. If only what follows fails, as bringing the new name
    to the disk, `early` has its name, and what it needs stays.
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
    except OSError:  # a file system without them
        return None
    return True


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let no other process rename files of ours in a folder meanwhile; a folder that cannot be locked is left so.

    Raises OutputError if another process does not come to an end.
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
    """Bring a temporary file to the disk, with the permissions of the file that it replaces, or of any new file."""
    file.flush()
    try:
        mode = stat.S_IMODE(target.stat().st_mode)
    except FileNotFoundError:
        mode = 0o666 & ~_umask()
    if hasattr(os, "fchmod"):
        os.fchmod(file.fileno(), mode)
    os.fsync(file.fileno())


def replace(source: Path, target: Path) -> None:
    """Rename a file, over another one if there is one, and bring that to the disk."""
    source.replace(target)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, if the system can."""
    with suppress(PermissionError):  # on Windows, and in folders that cannot be read
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def link_over(source: Path, target: Path) -> None:
    """Let a name stand for the same file as another name, in place of an older file; if there are no links, copy."""
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
    """Put a copy of a file in place of an older file, in a folder that is locked."""
    with temporary(target, locks=False) as (name, file):
        shutil.copyfile(source, name)
        seal(file, source)
        replace(name, target)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def sync_files(folder: Path) -> None:
    """Bring the files of a folder to the disk."""
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        with path.open("rb+") as file:
            os.fsync(file.fileno())
    sync_folder(folder)
