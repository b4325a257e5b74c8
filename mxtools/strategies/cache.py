"""A cache of traces and raw exports: a folder in which each subject has a folder of its own, named by its digest."""

from __future__ import annotations

import importlib.metadata
import json
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from mxtools.errors import OutputError
from mxtools.files import VERSION
from mxtools.files.atomic import tidy, write_text
from mxtools.files.json_text import decoded
from mxtools.files.regular import read_regular
from mxtools.files.temporary import remove_leftovers, temporary_name

_ENTRY = re.compile(r"[0-9a-f]{32}")
_NOTE = "entry.json"
DAY = 86_400
_LAST = 1e11
"""Seconds since the epoch, in the year 5138: no later number is a time, and no date can be made of it."""
_PACKAGES = ("torch", "transformers", "onnx", "onnxscript")


@dataclass(frozen=True)
class Entry:
    """What the cache has of one subject, a model with its inputs."""

    digest: str
    spec: str
    used: float
    """When it was last used, in seconds since the epoch."""
    size: int
    """Bytes of its files."""


class Cache:
    """The cache in a folder; the folder is created when it is first needed."""

    def __init__(self, place: Path) -> None:
        """Take the folder."""
        self.place = place

    def folder(self, digest: str, spec: str, key: str | None = None) -> Path:
        """Return the folder of a subject, which is created if it is missing; note the time of use and the key.

        Leftovers of killed runs in it are removed.
        """
        folder = self.place / digest
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tidy(folder)
        except OSError as error:
            raise OutputError(
                f"the cache {self.place} cannot be written ({error.strerror})", "give another ⟨cache⟩"
            ) from None
        note = {"spec": spec, "key": key, "used": time.time()}
        write_text(json.dumps(note) + "\n", folder / _NOTE)
        return folder

    def find(self, key: str) -> Path | None:
        """Return the folder of the subject with a key, None if there is none."""
        for folder, note in self._notes():
            if note.get("key") == key:
                return self.folder(folder.name, str(note["spec"]), key)
        return None

    def entries(self) -> list[Entry]:
        """Return all entries, the most recently used first; folders that are not entries are left out."""
        return sorted(self._entries(), key=lambda entry: -entry.used)

    def _entries(self) -> Iterator[Entry]:
        for folder, note in self._notes():
            size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
            yield Entry(folder.name, str(note["spec"]), float(note["used"]), size)

    def _notes(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Yield the folders of entries with their notes; other folders and files are left out."""
        for folder in self.place.iterdir() if self.place.is_dir() else ():
            if _ENTRY.fullmatch(folder.name):
                with suppress(OSError, ValueError):
                    note = decoded(read_regular(folder / _NOTE, noted=False))
                    if isinstance(note, dict) and isinstance(note.get("spec"), str) and _is_time(note.get("used")):
                        yield folder, note

    def prune(self, days: float | None = None, size: int | None = None) -> list[Entry]:
        """Remove entries unused for so many days, then the longest unused ones until the rest is within `size` bytes.

        Without either, remove everything. Returns the removed entries.
        """
        kept, removed = 0, []
        if self.place.is_dir():
            remove_leftovers(self.place)
        for entry in self.entries():
            old = days is not None and entry.used < time.time() - days * DAY
            large = size is not None and kept + entry.size > size
            if old or large or (days is None and size is None):
                removed.append(entry)
                # A half-removed entry must not be found.
                shutil.rmtree((self.place / entry.digest).rename(temporary_name(self.place / entry.digest)))
            else:
                kept += entry.size
        return removed


def _is_time(used: object) -> bool:
    """Return whether a note has a valid time of use; anybody may have written it."""
    return isinstance(used, int | float) and 0 <= used < _LAST


def key_of_folder(folder: Path, *settings: object) -> str:
    """Return 32 hexadecimal digits that stand for a model's files, how it is loaded, and the packages' versions."""
    state = blake2b(repr((*settings, *versions())).encode(), digest_size=16)
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        state.update(f"\0{file.relative_to(folder)}\0".encode())
        with file.open("rb") as content:
            while block := content.read(1 << 24):
                state.update(block)
    return state.hexdigest()


def versions() -> list[str]:
    """Return the versions of the packages on which a trace and an export depend."""
    return [f"mxtools {VERSION}", *(f"{name} {_version(name)}" for name in _PACKAGES)]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
