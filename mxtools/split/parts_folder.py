"""The folder of a split model: parts that share a file of weights, and the manifest, which all change together.

The new files are complete in a folder inside before anything else changes, and the manifest first names them there:

    out/manifest.json (old)                         out/0.onnx (old)   out/weights.data (old)
    out/manifest.json (names manifest.mx-5c0f/…)    out/0.onnx (old)   out/weights.data (old)
    …                                               each part and the weights as `files/atomic.py` does it
    out/manifest.json (new)                         out/0.onnx (new)   out/weights.data (new)

So the manifest always names a whole set, and each part its own weights, whenever the process is killed.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from mxtools.errors import OutputError
from mxtools.files.atomic import as_output_error, check_folder
from mxtools.files.outputs import MARK, named_in, owners
from mxtools.files.regular import note_output
from mxtools.files.temporary import (
    copy_over,
    link_over,
    locked,
    moved,
    remove_leftovers,
    replace,
    seal,
    shown,
    sync_files,
    temporary,
    temporary_folder,
)
from mxtools.files.writing import write_moved

FILE = "manifest.json"
DATA = "weights.data"
PASSING = rf"manifest{MARK}".replace(".", r"\.") + "[0-9a-f]{8}"
"""Names of folders that a manifest names its files in while they are moved to their places."""


def check_replaced(folder: Path, old: Sequence[str]) -> None:
    """Raise OutputError if a file of an earlier split is read, or if the weights are another model's too."""
    for name in old:
        note_output(folder / name, Path(os.path.realpath(folder / name)))
    if DATA in old and (folder / DATA).is_file():
        for owner in owners(folder / DATA):
            if owner.name not in old:
                raise OutputError(f"{folder / DATA} contains data that {owner.name} needs", "give another folder")


@dataclass(frozen=True)
class PartsFolder:
    """A folder for parts.

    `earlier` returns the names of the files that a split before wrote there; `passing` the text of the manifest whose
    files lie in a folder of a name, and which replaces some files.
    """

    folder: Path
    earlier: Callable[[], list[str]]
    passing: Callable[[str, Sequence[str]], str]

    @contextmanager
    def replacing(self) -> Iterator[Path]:
        """Yield an empty folder to write files into; when the block ends they replace those of an earlier split.

        Other files stay as they are. If anything fails, all is as it was. Raises OutputError if a new file has the name
        of one that no split wrote, if the weights are another model's too, or if the folder cannot be written to.
        """
        target = Path(os.path.realpath(self.folder))
        check_folder(self.folder)
        check_replaced(self.folder, self.earlier())
        is_new = not target.exists()
        if not is_new:  # what a run that was killed left when the folder was new
            with suppress(OSError), locked(target.parent):
                remove_leftovers(target.parent, {shown(target.name)})
        with as_output_error(self.folder), temporary_folder(target if is_new else target / FILE) as scratch:
            yield scratch
            sync_files(scratch)
            if is_new and _is_renamed(scratch, target):
                return
            with locked(target):  # what another process wrote meanwhile is an earlier split as well
                old = self.earlier()
                check_replaced(self.folder, old)
                self._refuse_foreign(scratch, target, old)
                self._install(scratch, target, old)

    def _refuse_foreign(self, scratch: Path, target: Path, old: Sequence[str]) -> None:
        for name in sorted(path.name for path in scratch.iterdir()):
            place = target / name
            if place.is_symlink() or (name not in old and place.exists()):
                raise OutputError(
                    f"{self.folder / name} exists already, and is not from an earlier split",
                    "move it, or give another folder",
                )

    def _install(self, scratch: Path, target: Path, old: Sequence[str]) -> None:
        """Replace the old files, so that at any moment the index names a whole set, and each model its own data."""
        new = target / f"manifest{MARK}{secrets.token_hex(4)}"
        text = self.passing(new.name, old)
        with temporary(target / FILE, locks=False) as (early, file):
            file.write(text.encode())
            seal(file, target / FILE)
            with moved(scratch, new, early):
                replace(early, target / FILE)
        models = sorted(path.name for path in new.iterdir() if path.name not in (FILE, DATA))
        self._install_models(new, target, models, [name for name in old if name not in (FILE, DATA)])
        link_over(new / FILE, target / FILE)
        remove_leftovers(target, {*map(shown, (*old, *models, DATA))})
        for left in target.iterdir():
            if re.fullmatch(PASSING, left.name) and left.is_dir() and not left.is_symlink():
                shutil.rmtree(left)

    def _install_models(self, new: Path, target: Path, models: Sequence[str], old: Sequence[str]) -> None:
        referring = [name for name in models if named_in(new / name)]
        if referring and (target / DATA).exists():  # which old parts need, until all are replaced
            for name in referring:
                with temporary(target / name, locks=False) as (early, file):
                    write_moved(new / name, file, f"{new.name}/{DATA}")
                    seal(file, new / name)
                    replace(early, target / name)
        for name in set(models).difference(referring):
            link_over(new / name, target / name)
        for name in set(old).difference(models):
            (target / name).unlink(missing_ok=True)
        if referring:
            copy_over(new / DATA, target / DATA)
            for name in referring:
                link_over(new / name, target / name)
        elif (target / DATA).is_file() and not any(owners(target / DATA)):
            (target / DATA).unlink()


def _is_renamed(scratch: Path, target: Path) -> bool:
    """Give a new folder its name, unless another process was first; return whether it has it."""
    with locked(target.parent):
        if target.exists():
            return False
        replace(scratch, target)
        return True
