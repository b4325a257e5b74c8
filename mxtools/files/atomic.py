"""Outputs that appear whole or not at all: one file, or a folder of them."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

from mxtools.errors import OutputError


@contextmanager
def atomic_output(path: Path) -> Iterator[BinaryIO]:
    """Give a file that takes the place of `path` when it is complete; on any failure what was there stays.

    Raises OutputError where the folder does not exist or cannot be written to. A device or pipe is written to directly.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file() and not target.is_dir():
        with target.open("wb") as device:
            yield device
        return
    check_writable(path)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name[:100]}.", suffix=".tmp", dir=target.parent)
    except OSError as error:
        raise OutputError(_unwritable(path, error)) from None
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        os.chmod(name, stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o666 & ~_umask())  # noqa: PTH101
        os.replace(name, target)  # noqa: PTH105
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise OutputError(_unwritable(path, error)) from None
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name)  # noqa: PTH108


def check_writable(target: str | Path) -> None:
    """Refuse, before any work is done, a file that cannot be written."""
    path = Path(os.path.realpath(str(target)))
    if path.is_dir():
        raise OutputError(f"{target} is a folder", "give the name of a file")
    if not path.parent.is_dir():
        raise OutputError(
            f"{target} cannot be written, its folder {path.parent} does not exist", "make it or give another -o"
        )
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"{target} cannot be written, its folder {path.parent} is not writable", "give another -o")


def _unwritable(path: Path, error: OSError) -> str:
    return f"{path} cannot be written ({error.strerror or error}): give another -o"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(text: str, path: Path) -> None:
    """Write text to a file."""
    with atomic_output(path) as file:
        file.write(text.encode())


@contextmanager
def atomic_folder(folder: Path, old: Sequence[str]) -> Iterator[Path]:
    """Give an empty folder, whose files are moved to `folder` when they are complete.

    There they take the place of the files `old`, which are removed; others are left alone. On any failure all is as it
    was. Raises OutputError where a file of another origin is in the way, or the folder cannot be written to.
    """
    target = Path(os.path.realpath(folder))
    check_folder(folder)
    try:
        with TemporaryDirectory(prefix=f".{target.name[:100]}.", suffix=".tmp", dir=target.parent) as scratch:
            new, gone = Path(scratch) / "new", Path(scratch) / "old"
            new.mkdir()
            gone.mkdir()
            yield new
            names = sorted(path.name for path in new.iterdir())
            other = next((name for name in names if name not in old and (target / name).exists()), None)
            if other:
                raise OutputError(
                    f"{folder / other} is there already, from elsewhere", "move it or give another folder"
                )
            out = [(target / name, gone / name) for name in old if (target / name).exists()]
            _move([*out, *((new / name, target / name) for name in names)], target)
    except OSError as error:
        raise OutputError(f"{folder} cannot be written ({error.strerror or error})", "give another folder") from None


def check_folder(folder: Path) -> None:
    """Refuse, before any work is done, a folder that cannot be made or written to."""
    target = Path(os.path.realpath(folder))
    if target.exists() and not target.is_dir():
        raise OutputError(f"{folder} is a file", "give the name of a folder")
    for place in (target.parent, target):
        if place == target.parent and not place.is_dir():
            raise OutputError(f"{folder} cannot be made, its folder {place} does not exist", "make it first")
        if place.is_dir() and not os.access(place, os.W_OK):
            raise OutputError(f"{folder} cannot be written, {place} is not writable", "give another folder")


def _move(moves: Sequence[tuple[Path, Path]], folder: Path) -> None:
    """Rename files into and out of a folder, which is made where it is not there; all of them or none."""
    made = not folder.exists()
    done: list[tuple[Path, Path]] = []
    try:
        folder.mkdir(exist_ok=True)
        for before, after in moves:
            before.rename(after)
            done.append((before, after))
    except BaseException:
        for before, after in reversed(done):
            after.rename(before)
        if made:
            with suppress(OSError):
                folder.rmdir()
        raise
