"""A folder that keeps traces and raw exports, each subject's in a folder of its own, named by its digest."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mxtools.errors import OutputError
from mxtools.model.modelio import write_text

_ENTRY = re.compile(r"[0-9a-f]{32}")
_NOTE = "entry.json"
DAY = 86_400


@dataclass(frozen=True)
class Entry:
    """What is kept of one subject."""

    digest: str
    spec: str
    used: float
    """When it was last used, in seconds since the epoch."""
    size: int
    """Bytes of its files."""


class Cache:
    """The cache in a folder, which is made when it is first needed."""

    def __init__(self, place: Path) -> None:
        """Take the folder."""
        self.place = place

    def folder(self, digest: str, spec: str) -> Path:
        """Give the folder of a subject, made where it is not there, and note that it was used."""
        folder = self.place / digest
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"the cache {self.place} cannot be written ({error.strerror}): give another --cache"
            ) from None
        write_text(json.dumps({"spec": spec, "used": time.time()}) + "\n", str(folder / _NOTE))
        return folder

    def entries(self) -> list[Entry]:
        """Give what is kept, what was used last first; folders that are no entries are not looked at."""
        return sorted(self._entries(), key=lambda entry: -entry.used)

    def _entries(self) -> Iterator[Entry]:
        for folder in self.place.iterdir() if self.place.is_dir() else ():
            if not _ENTRY.fullmatch(folder.name) or not (folder / _NOTE).is_file():
                continue
            note = json.loads((folder / _NOTE).read_text())
            size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
            yield Entry(folder.name, str(note["spec"]), float(note["used"]), size)

    def prune(self, days: float | None = None, size: int | None = None) -> list[Entry]:
        """Remove what was not used for so many days, and of the rest what was used longest ago, down to some bytes.

        Without either everything goes. Gives what was removed.
        """
        kept, removed = 0, []
        for entry in self.entries():
            old = days is not None and entry.used < time.time() - days * DAY
            large = size is not None and kept + entry.size > size
            if old or large or (days is None and size is None):
                removed.append(entry)
                shutil.rmtree(self.place / entry.digest)
            else:
                kept += entry.size
        return removed
