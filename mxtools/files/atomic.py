"""Outputs that appear whole or not at all: one file, or two that belong together.

Everything is written to a temporary file beside the output first (`files/temporary.py`). If the process is killed, the
next run removes that file.

Two files cannot be renamed in one step, and a model names the file of its weights. So if a model and its data are
written over older ones (`write_pair`; `docs/decisions/0015-model-and-data-change-together.md`), the new model first
gives its data another name:

    m.onnx (old, names m.onnx.data)          m.onnx.data (old)
    m.onnx (old, names m.onnx.data)          m.onnx.data (old)    m.onnx.mx-5c0f.data (new)
    m.onnx (new, names m.onnx.mx-5c0f.data)  m.onnx.data (old)    m.onnx.mx-5c0f.data (new)
    m.onnx (new, names m.onnx.mx-5c0f.data)  m.onnx.data (new)    m.onnx.mx-5c0f.data (new)
    m.onnx (new, names m.onnx.data)          m.onnx.data (new)

In each line, a model and the data that it names belong together, and each step is one renaming. The data are copied,
because onnx refuses data that have several names. Data that are there already, as when the same command runs again,
stay. If this process is killed, the name `m.onnx.mx-5c0f.data` also tells the next run that `m.onnx.data` is ours to
replace or remove:

    m.onnx (old, names m.onnx.data)  m.onnx.data (old)
    m.onnx (old, names m.onnx.data)  m.onnx.data (old)  m.onnx.mx-5c0f.data (empty)
    m.onnx (new, without data)       m.onnx.data (old)  m.onnx.mx-5c0f.data (empty)
    m.onnx (new, without data)
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO, cast

from mxtools.errors import OutputError
from mxtools.files.outputs import MARK, named_in, owners, permitted
from mxtools.files.regular import Comparison, DifferentError, identity, is_device, is_read, status_of
from mxtools.files.temporary import (
    copy_over,
    link_over,
    locked,
    moved,
    remove_leftovers,
    replace,
    seal,
    shown,
    temporary,
)

Write = Callable[[BinaryIO, str], object]
"""Writes a file; the text is the name of the file beside it."""
_PASSING = re.compile(rf"{re.escape(MARK)}[0-9a-f]{{8}}(?=\.[^.]*$|$)")
"""The part of a name beside another file by which it is a passing name, one that does not stay."""


@contextmanager
def atomic_output(path: Path, beside: str = "") -> Iterator[BinaryIO]:
    """Yield a file to write, which becomes `path` when the block ends; if the block fails, the old file stays.

    `beside` is the name of a file that the old file may have had beside it, and that the new one lacks (`write_pair`).

    Readers see the old file or the whole new one, even if the process is killed or the power fails. A link within its
    folder stays a link. Devices and pipes are written to directly. Raises OutputError as `outputs.permitted` does, and
    if the file cannot be written.
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
    """Write text to a file, in UTF-8; raises OutputError as `atomic_output` does."""
    with atomic_output(path) as file:
        file.write(text.encode())


def write_pair(
    path: Path,
    beside: str,
    write: Write,
    write_beside: Callable[[BinaryIO], object],
    ours: bool = True,
) -> None:
    """Write a file and another one beside it that it names; at any moment both are old, or both are new.

    `write` gets the file and the name that it must give to the other one. Both functions may be called more than once,
    and must write the same each time. If another file also needs the file `beside`, that file stays, and a number goes
    into our name. The same happens if the name is not `ours` and the file is nobody's: then anybody may have put it
    there. Raises OutputError as `atomic_output` does.
    """
    target = permitted(path)
    if is_device(target):
        with target.open("wb") as device:
            write(device, beside)
        return
    with as_output_error(path):
        while True:
            data = slot(target, beside, ours)
            if _write_alone(target, data, beside, write, write_beside):
                return
            with temporary(data) as (new_data, file), temporary(target) as (new, main):
                write_beside(file)
                seal(file, data)
                write(main, data.name)
                seal(main, target)
                with locked(target.parent):
                    if not _is_free(data, target, ours):  # another process was faster
                        continue
                    with without_old_data(target, beside, data):
                        _rename_both(target, data, new, new_data, write, ours)
                        return


def _write_alone(
    target: Path, data: Path, beside: str, write: Write, write_beside: Callable[[BinaryIO], object]
) -> bool:
    """Write a file whose data are there already, as when a command runs again; return whether they are."""
    try:
        opened = data.open("rb")
    except FileNotFoundError:  # it was not there, or another process has just removed it
        return False
    with opened as there, temporary(target) as (new, main):
        status = os.fstat(there.fileno())
        try:
            write_beside(cast(BinaryIO, Comparison(there)))
        except DifferentError:
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


def _rename_both(target: Path, data: Path, new: Path, new_data: Path, write: Write, ours: bool) -> None:
    """Rename a new file and its data to their places; if both exist already, in the steps shown above."""
    if ours and not (target.exists() and data.exists()):
        replace(new_data, data)
        replace(new, target)
        return
    passing = _passing(data)
    with temporary(target, locks=False) as (early, file):
        write(file, passing.name)
        seal(file, target)
        with moved(new_data, passing, early):
            replace(early, target)
    (copy_over if ours else link_over)(passing, data)
    replace(new, target)
    passing.unlink()


def _passing(data: Path) -> Path:
    """Return a new passing name for a file's data: until they get their name, or as a sign that they are removed."""
    return data.with_name(f"{data.stem}{MARK}{secrets.token_hex(4)}{data.suffix}")


def check_folder(folder: Path) -> None:
    """Raise OutputError if a folder cannot be made or written to; called before work that would be lost."""
    target = Path(os.path.realpath(folder))
    if target.exists() and not target.is_dir():
        raise OutputError(f"{folder} is a file", "give the name of a folder")
    if not target.parent.is_dir():
        raise OutputError(
            f"{folder} cannot be created, because its folder {target.parent} does not exist", "create it first"
        )
    for needed in (target.parent, target):
        if needed.is_dir() and not os.access(needed, os.W_OK):
            raise OutputError(f"{folder} cannot be written, because {needed} is not writable", "give another folder")


def slot(target: Path, name: str, ours: bool = True) -> Path:
    """Return the place of a file's data: its name, with the first free number in it if other files need the name."""
    number, place = 1, target.with_name(name)
    while not _is_free(place, target, ours):
        number += 1
        place = target.with_name(f"{Path(name).stem}.{number}{Path(name).suffix}")
    return place


def _is_free(place: Path, target: Path, ours: bool) -> bool:
    """Return whether data may be written to a place: nothing is there, or something that only the old file needs."""
    if not os.path.lexists(place):
        return True
    if place.is_symlink() or not place.is_file():
        return False
    needing = {owner.name for owner in owners(place)}
    if needing:
        return needing == {target.name}
    return (ours or place.name in _replaced(target.parent)) and not is_read(place)


def _replaced(folder: Path) -> set[str]:
    """Return the names of data that a killed run was about to replace or remove, as passing names beside them show."""
    with os.scandir(folder) as entries:
        return {_PASSING.sub("", entry.name) for entry in entries if _is_passing(entry.name)}


def _is_passing(name: str) -> bool:
    return bool(_PASSING.search(name)) and not name.endswith(".tmp")


@contextmanager
def without_old_data(target: Path, beside: str, data: Path | None = None) -> Iterator[None]:
    """Remove data that only the old file named, and leftovers, after the block, which replaces the file.

    Only names that `write_pair` gives are removed; `data` are the new data. Data that other files name stay. Meanwhile
    an empty file with a passing name lies beside them. By this the next run knows them, if this process is killed.
    """
    found = _old_data(target, beside)
    marks = [_passing(place) for place in found if MARK not in place.name and place != data]
    for mark in marks:
        mark.touch()
    old = status_of(target)
    try:
        yield
    except BaseException:
        new = status_of(target)
        if old and new and identity(old) == identity(new):
            for mark in marks:
                mark.unlink()
        raise
    remove_leftovers(target.parent, {shown(name) for name in (beside, data.name if data else beside)})
    _remove_unnamed(place for place in (*found, *marks) if place != data)


def _old_data(target: Path, beside: str) -> list[Path]:
    """Return the data that an old file names, then what killed runs left of them."""
    stem, suffix = re.escape(Path(beside).stem), re.escape(Path(beside).suffix)
    ours = re.compile(rf"{stem}(\.\d+)?({re.escape(MARK)}[0-9a-f]{{8}})?{suffix}")
    with os.scandir(target.parent) as entries:
        found = sorted((entry.name for entry in entries if ours.fullmatch(entry.name)), key=lambda name: MARK in name)
    if not found:
        return []
    known = {*named_in(target), *(_PASSING.sub("", name) for name in found if MARK in name)}
    return [target.with_name(name) for name in found if MARK in name or name in known]


def _remove_unnamed(places: Iterable[Path]) -> None:
    for place in places:
        if place.is_file() and not place.is_symlink() and not any(owners(place, by_name=True)):
            place.unlink()


def tidy(folder: Path) -> None:
    """Remove what killed runs left in a folder to which only we write."""
    with locked(folder):
        remove_leftovers(folder)
        _remove_unnamed([place for place in folder.iterdir() if _is_passing(place.name)])


@contextmanager
def as_output_error(path: Path, remedy: str = "give another ⟨output⟩") -> Iterator[None]:
    """Raise system errors about writing in the block as OutputError."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error.strerror or error})", remedy) from None
