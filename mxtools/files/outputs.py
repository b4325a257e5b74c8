"""What may be written where: nothing that a command reads or another model needs, and nothing behind a link.

Every output passes `claim`. The outputs of a command pass it when the command begins, before it reads or runs anything,
and all outputs pass it again when they are written. Files that a command reads are noted, so it does not matter which
comes first, reading or claiming.

    mx graft model.onnx part.onnx -o part.onnx      claim(part.onnx, replacing=model.onnx), then note_read(part.onnx):
                                                    refused, since the part is no model that is replaced by the result
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.message import DecodeError
from onnx import ModelProto

from mxtools.errors import MxError, OutputError
from mxtools.files import wire
from mxtools.files.json_text import decoded_or_none
from mxtools.files.regular import FileBytes, identity, is_device, note_output, running, status_of
from mxtools.files.weights import is_external, tensors_of

MARK = ".mx-"
"""A part of the names that we give to files that do not stay."""
_MODELS = (0x08, wire.PRODUCER[0])
"""How models begin: with `ir_version`, which writers put first, or with what announces them (`files/stream.py`)."""
_OBJECT = ord("{")
_LONGEST = 1 << 28
"""The size of the largest sidecar that is searched, in bytes."""


def claim(path: Path, replacing: Path | int | None = None) -> Path:
    """Return the file that a command's output is, with links resolved, if it may be written, and note it.

    `replacing` is the model (or its file descriptor) that the output may replace. Raises what `permitted` raises, and
    OutputError for a file that the command reads.
    """
    target, command = permitted(path), running.get()
    if command is None:
        return target
    if replacing is not None and (own := status_of(replacing)):
        command.replaced.add(identity(own))
    note_output(path, target)
    return target


def claim_beside(path: Path) -> None:
    """Note an output that `write_pair` renames if the file is another's; raises what `claim` raises."""
    note_output(path, _writable(path))


def permitted(path: Path) -> Path:
    """Return the file that an output is, with links resolved, if it may be written.

    Raises OutputError for a folder, a place that cannot be written to, a link out of its folder, and a file with
    weights of a model or values of a trace.
    """
    target, command = _writable(path), running.get()
    if target.is_file() and not (command and str(target) in command.outputs):
        for owner in owners(target):
            raise OutputError(f"{path} contains data that {owner.name} needs", "give another ⟨output⟩")
    return target


def _writable(path: Path) -> Path:
    """Return an output's file, with links resolved; OutputError if it cannot be written, or a link leads away."""
    if is_device(path):
        return path
    target, folder = Path(os.path.realpath(path)), Path(os.path.realpath(path.parent))
    if path.is_symlink() and not target.is_relative_to(folder):
        raise OutputError(f"{path} is a link to {target}, outside its folder", "give {target}, or another ⟨output⟩")
    if target.is_dir():
        raise OutputError(f"{path} is a folder", "give the name of a file")
    if not target.parent.is_dir():
        raise OutputError(
            f"{path} cannot be written, because its folder {target.parent} does not exist",
            "create it, or give another ⟨output⟩",
        )
    if not os.access(target.parent, os.W_OK):
        raise OutputError(
            f"{path} cannot be written, because its folder {target.parent} is not writable", "give another ⟨output⟩"
        )
    return target


def owners(file: Path, by_name: bool = False) -> Iterator[Path]:
    """Yield the files in a file's folder that keep weights or values in the file, in the order of their names.

    If the file has several names, each counts; with `by_name`, only this one and links to it count. These are not
    owners: our temporary files, files that cannot be read, and links to a file in the folder, which is an owner itself.
    A file that is a model has no weights of others, so nothing is searched.
    """
    if _is_model(file):
        return
    names = {entry.name for entry in _files(file.parent) if _same(entry.path, file)}
    if by_name:
        names = {name for name in names if name == file.name or (file.parent / name).is_symlink()}
    for path in sorted(Path(entry.path) for entry in _files(file.parent) if _may_own(entry, names)):
        if any(_same(file.parent / name, file) for name in named_in(path, names)):
            yield path


def _may_own(entry: os.DirEntry[str], names: set[str]) -> bool:
    name = entry.name
    if name in names or (name.startswith(".") and MARK in name and name.endswith(".tmp")):
        return False
    folder = Path(entry.path).parent
    return not (entry.is_symlink() and Path(os.path.realpath(entry.path)).parent.samefile(folder))


def named_in(file: Path, names: set[str] | None = None) -> set[str]:
    """Return the locations of external data in a model, or the name of the recorded values in a sidecar.

    With `names`, a file is parsed only if one of them occurs in its bytes.
    """
    try:
        with file.open("rb", buffering=0) as opened:
            data = FileBytes(opened, file.name)
            first = data[0] if len(data) else None
            if first in _MODELS:
                return _locations(wire.split(data)[0], names)
            if first == _OBJECT and len(data) < _LONGEST:
                return _record(data[:], names)
    except (OSError, MxError, wire.WireError, DecodeError):
        pass
    return set()


def _locations(skeleton: bytes, names: set[str] | None) -> set[str]:
    if b"location" not in skeleton or not _mentions(skeleton, names):
        return set()
    tensors = (tensor for tensor in tensors_of(ModelProto.FromString(skeleton)) if is_external(tensor))
    return {entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location"}


def _record(text: bytes, names: set[str] | None) -> set[str]:
    found = decoded_or_none(text) if _mentions(text, names) and b'"record"' in text else None
    record = found.get("record") if isinstance(found, dict) else None
    return {record} if isinstance(record, str) else set()


def _mentions(data: bytes, names: set[str] | None) -> bool:
    return names is None or any(os.fsencode(name) in data for name in names)


def _is_model(file: Path) -> bool:
    """Return whether a file is a model, by its fields; bytes that only look like a model do not end with the file."""
    try:
        with file.open("rb", buffering=0) as opened:
            data = FileBytes(opened, file.name)
            if not len(data) or data[0] not in _MODELS:
                return False
            return any(field.number == wire.MODEL_GRAPH for field in [*wire.fields(data, 0, len(data))])
    except (OSError, MxError, wire.WireError):
        return False


def _files(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Yield the regular files of a folder, including those behind links."""
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                if stat.S_ISREG(entry.stat().st_mode):
                    yield entry
            except OSError:
                continue


def _same(one: str | Path, other: Path) -> bool:
    try:
        return other.samefile(one)
    except (OSError, ValueError):
        return False
