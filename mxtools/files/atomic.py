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
    """Yield a file to write, which becomes `path` when the block ends; if the block fails, the old file stays.

    The bytes go to a temporary file in the same folder, which is renamed at the end: readers see the old file or the
    whole new one, also when the process is killed. A link stays a link. Devices and pipes are written to directly.
    Raises OutputError if the folder does not exist or cannot be written to.
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
        raise _unwritable(path, error) from None
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        os.chmod(name, stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o666 & ~_umask())  # noqa: PTH101
        os.replace(name, target)  # noqa: PTH105
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise _unwritable(path, error) from None
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name)  # noqa: PTH108


def check_writable(target: str | Path) -> None:
    """Raise OutputError if a file cannot be written; called before the work that would be lost."""
    path = Path(os.path.realpath(str(target)))
    if path.is_dir():
        raise OutputError(f"{target} is a folder", "give the name of a file")
    if not path.parent.is_dir():
        raise OutputError(
            f"{target} cannot be written, its folder {path.parent} does not exist", "make it or give another ⟨output⟩"
        )
    if not os.access(path.parent, os.W_OK):
        raise OutputError(
            f"{target} cannot be written, its folder {path.parent} is not writable", "give another ⟨output⟩"
        )


def _unwritable(path: Path, error: OSError) -> OutputError:
    return OutputError(f"{path} cannot be written ({error.strerror or error})", "give another ⟨output⟩")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(text: str, path: Path) -> None:
    """Write text to a file, in UTF-8; OutputError as for `atomic_output`."""
    with atomic_output(path) as file:
        file.write(text.encode())


@contextmanager
def atomic_folder(folder: Path, old: Sequence[str]) -> Iterator[Path]:
    """Yield an empty folder to write files into; when the block ends they replace the files `old` of `folder`.

    Other files of `folder` stay as they are. If anything fails, `folder` is as it was. Raises OutputError if a new file
    has the name of one that is not in `old`, or if the folder cannot be written to.

    A folder cannot be replaced in one step without losing the files of others in it. So the new files are written into
    a scratch folder on the same file system, and then everything is renamed; with `old=["a", "b"]` and new `b`, `c`:

        out/a -> scratch/old/a, out/b -> scratch/old/b, scratch/new/b -> out/b, scratch/new/c -> out/c

    Renaming is quick and hardly ever fails; if it does, the renames done so far are undone in the opposite order.
    """
    target = Path(os.path.realpath(folder))
    check_folder(folder)
    try:
        with TemporaryDirectory(prefix=f".{target.name[:100]}.", suffix=".tmp", dir=target.parent) as scratch:
            new, replaced = Path(scratch) / "new", Path(scratch) / "old"
            new.mkdir()
            replaced.mkdir()
            yield new
            names = sorted(path.name for path in new.iterdir())
            foreign = next((name for name in names if name not in old and (target / name).exists()), None)
            if foreign:
                raise OutputError(
                    f"{folder / foreign} is there already, from elsewhere", "move it or give another folder"
                )
            moves = [(target / name, replaced / name) for name in old if (target / name).exists()]
            moves += [(new / name, target / name) for name in names]
            _rename_all(moves, target)
    except OSError as error:
        raise OutputError(f"{folder} cannot be written ({error.strerror or error})", "give another folder") from None


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


def _rename_all(moves: Sequence[tuple[Path, Path]], folder: Path) -> None:
    """Rename files (from, to) into and out of a folder, all or none; the folder is made if it does not exist."""
    is_new = not folder.exists()
    done: list[tuple[Path, Path]] = []
    try:
        folder.mkdir(exist_ok=True)
        for before, after in moves:
            before.rename(after)
            done.append((before, after))
    except BaseException:
        for before, after in reversed(done):
            after.rename(before)
        if is_new:
            with suppress(OSError):
                folder.rmdir()
        raise
