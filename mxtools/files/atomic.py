"""Outputs that appear whole or not at all: one file, or two that belong together.

What is written goes to a temporary file beside the output, whose name tells of what it is, and which is locked as long
as its process lives. The next run that writes the same output removes those that a killed run left.

Two files cannot be renamed in one step, and a model names the file that its weights lie in. So where a model and its
data are written over older ones (`write_pair`; `docs/decisions/0015-model-and-data-change-together.md`), the new model
first names its data by another name:

    m.onnx (old, names m.onnx.data)          m.onnx.data (old)
    m.onnx (old, names m.onnx.data)          m.onnx.data (old)    m.onnx.mx-5c0f.data (new)
    m.onnx (new, names m.onnx.mx-5c0f.data)  m.onnx.data (old)    m.onnx.mx-5c0f.data (new)
    m.onnx (new, names m.onnx.mx-5c0f.data)  m.onnx.data (new)    m.onnx.mx-5c0f.data (new)
    m.onnx (new, names m.onnx.data)          m.onnx.data (new)

In each line a model and what it names belong together, and each step is one renaming. The data are copied, since onnx
refuses data that several names stand for; data that are there already, as after the same command, stay.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import BinaryIO, cast

from mxtools.errors import OutputError
from mxtools.files.outputs import MARK, named_in, owners, permitted
from mxtools.files.regular import is_device, is_read

try:
    import fcntl
except ImportError:  # on Windows, which does not remove files that are open
    fcntl = None  # type: ignore[assignment]

Write = Callable[[BinaryIO, str], object]
"""Writes a file, with a name for the one beside it."""
LONGEST = 100
"""Bytes of a file's name that the name of a temporary file shows."""
_TEMPORARY = re.compile(rf"\.(.*){re.escape(MARK)}[0-9a-f]{{8}}\.tmp", re.DOTALL)
PATIENCE = 60
"""Seconds to wait for another process that renames files in the same folder, which takes milliseconds."""
PAUSE = 0.01
"""Seconds between two attempts to lock."""


@contextmanager
def atomic_output(path: Path, beside: str = "") -> Iterator[BinaryIO]:
    """Yield a file to write, which becomes `path` when the block ends; if the block fails, the old file stays.

    `beside` is the name of a file that the old one may have had beside it, and the new one has not (`write_pair`).

    Readers see the old file or the whole new one, also when the process is killed or the power fails. A link within its
    folder stays a link. Devices and pipes are written to directly. Raises OutputError as `outputs.permitted`, and if
    the file cannot be written.
    """
    target = permitted(path)
    if is_device(target):
        with target.open("wb") as device:
            yield device
        return
    with as_output_error(path), temporary(target) as (name, file):
        yield file
        seal(file, target)
        with locked(target.parent), without_old_data(target, beside) if beside else nullcontext():
            replace(name, target)


def write_text(text: str, path: Path) -> None:
    """Write text to a file, in UTF-8; OutputError as for `atomic_output`."""
    with atomic_output(path) as file:
        file.write(text.encode())


def write_pair(
    path: Path,
    beside: str,
    write: Write,
    write_beside: Callable[[BinaryIO], object],
    ours: bool = True,
) -> None:
    """Write a file and one beside it that it names; at any moment there are both old ones, or both new ones.

    `write` takes the file and the name that it is to give to the other one. A file of the name `beside` that is
    another's too is left to that, and a number is put into the name; if the name is not `ours`, so that anybody may
    have given it to a file, also one that is nobody's. Raises OutputError as `atomic_output`.
    """
    target = permitted(path)
    if is_device(target):
        with target.open("wb") as device:
            write(device, beside)
        return
    with as_output_error(path):
        data = slot(target, beside, ours)
        if _write_alone(target, data, beside, write, write_beside):
            return
        with temporary(data) as (new_data, file), temporary(target) as (new, main):
            write_beside(file)
            seal(file, data)
            write(main, data.name)
            seal(main, target)
            with locked(target.parent), without_old_data(target, beside, data):
                if ours and not (target.exists() and data.exists()):
                    replace(new_data, data)
                    replace(new, target)
                else:
                    _change_both(target, data, new, new_data, write, links=not ours)


def _write_alone(
    target: Path, data: Path, beside: str, write: Write, write_beside: Callable[[BinaryIO], object]
) -> bool:
    """Write a file whose data are there already, as when a command is run again; return whether they are."""
    if not data.is_file():
        return False
    with data.open("rb") as there, temporary(target) as (new, main):
        status = os.fstat(there.fileno())
        try:
            write_beside(cast(BinaryIO, _Comparison(there)))
        except _DifferentError:
            return False
        if there.read(1):
            return False
        write(main, data.name)
        seal(main, target)
        with locked(target.parent), without_old_data(target, beside, data):
            if not (data.exists() and os.path.samestat(status, data.stat())):
                return False
            replace(new, target)
    return True


class _DifferentError(Exception):
    """Other bytes are in the file than would be written to it."""


class _Comparison:
    """A file to write that compares what is written with what is in another file."""

    def __init__(self, there: BinaryIO) -> None:
        self._there = there

    def write(self, data: bytes) -> None:
        if self._there.read(len(data)) != data:
            raise _DifferentError

    def writelines(self, pieces: Iterable[bytes]) -> None:
        for piece in pieces:
            self.write(piece)

    def tell(self) -> int:
        return self._there.tell()


def _change_both(target: Path, data: Path, new: Path, new_data: Path, write: Write, links: bool) -> None:
    """Rename a new file and its data to their places, as the head of this file shows."""
    passing = data.with_name(f"{data.stem}{MARK}{secrets.token_hex(4)}{data.suffix}")
    with temporary(target, locks=False) as (early, file):
        write(file, passing.name)
        seal(file, target)
        replace(new_data, passing)
        try:
            replace(early, target)
        except BaseException:
            if early.exists():  # else it is renamed already, and names these data
                passing.unlink()
            raise
    (link_over if links else copy_over)(passing, data)
    replace(new, target)
    passing.unlink()


def check_folder(folder: Path) -> None:
    """Raise OutputError if a folder cannot be made or written to; called before the work that would be lost."""
    target = Path(os.path.realpath(folder))
    if target.exists() and not target.is_dir():
        raise OutputError(f"{folder} is a file", "give the name of a folder")
    if not target.parent.is_dir():
        raise OutputError(f"{folder} cannot be made, its folder {target.parent} does not exist", "make it first")
    for needed in (target.parent, target):
        if needed.is_dir() and not os.access(needed, os.W_OK):
            raise OutputError(f"{folder} cannot be written, {needed} is not writable", "give another folder")


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
        if handle is not None:
            os.close(handle)
        shutil.rmtree(place, ignore_errors=True)


def sync_files(folder: Path) -> None:
    """Bring the files of a folder to the disk."""
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        with path.open("rb+") as file:
            os.fsync(file.fileno())
    sync_folder(folder)


def slot(target: Path, name: str, ours: bool = True) -> Path:
    """Return the place of a file's data: its name, or with the first number that no other file's data have."""
    number, place = 1, target.with_name(name)
    while not _is_free(place, target, ours):
        number += 1
        place = target.with_name(f"{Path(name).stem}.{number}{Path(name).suffix}")
    return place


def _is_free(place: Path, target: Path, ours: bool) -> bool:
    """Return whether data may be written to a place: nothing is there, or what only the old file needs."""
    if not os.path.lexists(place):
        return True
    if place.is_symlink() or not place.is_file():
        return False
    needing = {owner.name for owner in owners(place)}
    return needing == {target.name} or (ours and not needing and not is_read(place))


@contextmanager
def without_old_data(target: Path, beside: str, data: Path | None = None) -> Iterator[None]:
    """Remove after the block, in which a file is replaced, what only the old one named, and what a killed run left.

    That is of the names that `write_pair` gives; `data` is the new one. What other files name stays.
    """
    stem, suffix = re.escape(Path(beside).stem), re.escape(Path(beside).suffix)
    ours = re.compile(rf"{stem}(\.\d+|{re.escape(MARK)}[0-9a-f]{{8}})?{suffix}")
    with os.scandir(target.parent) as entries:
        found = [entry.name for entry in entries if ours.fullmatch(entry.name)]
    if found:
        named = named_in(target)
        found = [name for name in found if MARK in name or name in named]
    yield
    remove_leftovers(target.parent, {shown(name) for name in (beside, data.name if data else beside)})
    for place in map(target.with_name, found):
        if place != data and place.is_file() and not place.is_symlink() and not any(owners(place)):
            place.unlink()


@contextmanager
def temporary(target: Path, locks: bool = True) -> Iterator[tuple[Path, BinaryIO]]:
    """Yield the name of a temporary file beside `target` and the file, open to write; both are gone after the block.

    What an earlier run left of the same target is removed. `locks` is false where the folder is locked already.
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


def remove_leftovers(folder: Path, names: Container[str]) -> None:
    """Remove temporary files and folders of targets in a folder whose process does not live any more."""
    with os.scandir(folder) as entries:
        temporaries = ((Path(entry.path), _TEMPORARY.fullmatch(entry.name)) for entry in entries)
        found = [path for path, match in temporaries if match and match[1] in names]
    for place in found:
        with suppress(OSError):
            handle = os.open(place, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
            try:
                if _lock(handle):
                    shutil.rmtree(place) if place.is_dir() else place.unlink()
            finally:
                os.close(handle)


def _lock(handle: int) -> bool | None:
    """Lock an open file or folder; return False where another has it locked, None where there are no locks."""
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

    Raises OutputError where another process does not come to an end.
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
    """Rename a file, over another one where there is one, and bring that to the disk."""
    source.replace(target)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, where the system can."""
    with suppress(PermissionError):  # on Windows, and in folders that cannot be read
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def link_over(source: Path, target: Path) -> None:
    """Let a name stand for the same file as another name, in place of an older file; where there are no links, copy."""
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


@contextmanager
def as_output_error(path: Path) -> Iterator[None]:
    """Raise what the system says against writing in the block as OutputError."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error.strerror or error})", "give another ⟨output⟩") from None
