"""A folder that keeps traces and raw exports, each subject's in a folder of its own, named by its digest."""

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
from mxtools.files.atomic import write_text
from mxtools.files.json_text import decoded
from mxtools.files.version import VERSION

_ENTRY = re.compile(r"[0-9a-f]{32}")
_NOTE = "entry.json"
DAY = 86_400
_PACKAGES = ("torch", "transformers", "onnx", "onnxscript")


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

    def folder(self, digest: str, spec: str, key: str | None = None) -> Path:
        """Give the folder of a subject, made where it is not there; note that it was used, and what it is found by."""
        folder = self.place / digest
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"the cache {self.place} cannot be written ({error.strerror})", "give another --cache"
            ) from None
        note = {"spec": spec, "key": key, "used": time.time()}
        write_text(json.dumps(note) + "\n", folder / _NOTE)
        return folder

    def find(self, key: str) -> Path | None:
        """Give the folder that was noted to be found by a key."""
        for folder, note in self._notes():
            if note.get("key") == key:
                return self.folder(folder.name, str(note["spec"]), key)
        return None

    def entries(self) -> list[Entry]:
        """Give what is kept, what was used last first; folders that are no entries are not looked at."""
        return sorted(self._entries(), key=lambda entry: -entry.used)

    def _entries(self) -> Iterator[Entry]:
        for folder, note in self._notes():
            size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
            yield Entry(folder.name, str(note["spec"]), float(note["used"]), size)

    def _notes(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Give the folders of entries with their notes; what is no entry is left alone."""
        for folder in self.place.iterdir() if self.place.is_dir() else ():
            if _ENTRY.fullmatch(folder.name):
                with suppress(OSError, ValueError):
                    note = decoded((folder / _NOTE).read_text())
                    if isinstance(note, dict) and {"spec", "used"} <= note.keys():
                        yield folder, note

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


def key_of_folder(folder: Path, *settings: object) -> str:
    """Give 32 hexadecimal digits of the files in a model's folder, how it is loaded, and the packages' versions."""
    state = blake2b(repr((*settings, *versions())).encode(), digest_size=16)
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        state.update(f"\0{file.relative_to(folder)}\0".encode())
        with file.open("rb") as content:
            while block := content.read(1 << 24):
                state.update(block)
    return state.hexdigest()


def versions() -> list[str]:
    """Give the versions of the packages that a trace and an export depend on."""
    return [f"mxtools {VERSION}", *(f"{name} {_version(name)}" for name in _PACKAGES)]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
