"""Writing a folder of files at once: all of them, or on any failure none."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from mxtools.errors import OutputError


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
                raise OutputError(f"{folder / other} is there already, from elsewhere: move it or give another folder")
            out = [(target / name, gone / name) for name in old if (target / name).exists()]
            _move([*out, *((new / name, target / name) for name in names)], target)
    except OSError as error:
        raise OutputError(f"{folder} cannot be written ({error.strerror or error}): give another folder") from None


def check_folder(folder: Path) -> None:
    """Refuse, before any work is done, a folder that cannot be made or written to."""
    target = Path(os.path.realpath(folder))
    if target.exists() and not target.is_dir():
        raise OutputError(f"{folder} is a file: give the name of a folder")
    for place in (target.parent, target):
        if place == target.parent and not place.is_dir():
            raise OutputError(f"{folder} cannot be made, its folder {place} does not exist: make it first")
        if place.is_dir() and not os.access(place, os.W_OK):
            raise OutputError(f"{folder} cannot be written, {place} is not writable: give another folder")


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
