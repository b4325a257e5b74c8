"""Reading models without their weights, which stay in their files until they are needed."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import IO

from google.protobuf.message import DecodeError
from onnx import ModelProto

from mxtools.errors import InputError, UsageError
from mxtools.files import wire
from mxtools.files.regular import Bytes, FileBytes, note_read, open_regular
from mxtools.files.soundness import require_sound
from mxtools.files.stream import keep_all, read_pipe
from mxtools.files.weights import WeightStore, is_external, tensors_of

Source = Path | IO[bytes]

_ARCHIVE = b"PK\x03\x04"
"""How a zip archive begins."""
_COMPRESSED = {b"\x1f\x8b": "gunzip", b"BZh": "bunzip2", b"\xfd7zXZ\0": "unxz", b"\x28\xb5\x2f\xfd": "unzstd"}
"""How compressed files begin, and the programs that decompress them."""
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
"""How the text begins that Git LFS puts in the place of a file that it did not fetch."""
_BEGINNING = 64
"""How many bytes are looked at to recognise a text."""
_SPACES = dict.fromkeys(map(ord, "\t\n\r"), " ")


class EmptyError(InputError):
    """A file or a pipe without any bytes."""


def read_model(
    source: Source, name: str, data_dir: Path | None = None, placing: bool = True
) -> tuple[ModelProto, WeightStore]:
    """Read a model from a path or an open file, such as a pipe; return its graph and the store of its weights.

    `name` is what messages call the source. Locations of external data are relative to `data_dir`, else to the file's
    folder, or for a pipe to the working directory. Raises InputError if there is no file, or no model in it, only a
    part of one, or one that is not sound (`files/soundness.py`); with `placing`, also if external data are missing.
    """
    data = _bytes(source, name)
    if not len(data):
        raise EmptyError(f"{name} is empty, so it is not an ONNX model", "check the command that writes it")
    proto, skeleton = _parse(data, name)
    require_sound(proto, name, skeleton)
    folder = data_dir or (source.parent if isinstance(source, Path) else Path())
    if not folder.is_dir():
        raise UsageError(f"⟨data-dir⟩ {folder} is not a folder")
    weights = WeightStore(data, folder)
    if placing and skeleton.count(b"location") > skeleton.count(wire.REFERENCE):  # each reference has one too
        for tensor in tensors_of(proto):
            if is_external(tensor):
                weights.place(tensor)
        # If the file is another one by now, these data may belong to the new model.
        if isinstance(source, Path) and source.is_file() and data.is_replaced(source):
            raise InputError(f"{name} was replaced while the command read it", "read it again")
    return proto, weights


def _no_model(data: Bytes, name: str) -> tuple[str, str]:
    """Return what a file is that is not a whole ONNX model, judging by its beginning, and what to do."""
    first = bytes(data[: min(_BEGINNING, len(data))])
    if first.startswith(_ARCHIVE):
        return (
            f"{name} is an archive, such as PyTorch's files of weights, not an ONNX model",
            "give an .onnx file",
        )
    for beginning, program in _COMPRESSED.items():
        if first.startswith(beginning):
            return f"{name} is compressed", f"decompress it with `{program}`"
    if first[8:10] == b'{"':
        return f"{name} is a file of weights (safetensors), not an ONNX model", "give an .onnx file"
    if first.startswith(_LFS_POINTER):
        return f"{name} is a Git LFS pointer, not the model itself", "fetch it with `git lfs pull`"
    if first.isascii() and first.decode().translate(_SPACES).isprintable():
        return f"{name} is a text file, not an ONNX model", "give an .onnx file"
    return f"{name} is not an ONNX model, or only the beginning of one", "export it again"


def _parse(data: Bytes, name: str) -> tuple[ModelProto, bytes]:
    """Parse a model around its weights; return it and its skeleton, the bytes that were parsed."""
    try:
        skeleton, deferred = wire.split(data)
        proto = ModelProto.FromString(skeleton)
    except (wire.WireError, DecodeError):
        raise InputError(*_no_model(data, name)) from None
    if skeleton.count(wire.REFERENCE) != deferred:
        raise InputError(f"{name} uses the name {wire.REFERENCE.decode()!r}, which is reserved", "rename it")
    if not proto.HasField("graph") or not proto.ir_version or (proto.ir_version >= 3 and not proto.opset_import):
        raise InputError(
            f"{name} is not an ONNX model, or only the beginning of one", "it lacks graph, IR version or operator sets"
        )
    return proto, skeleton


def _bytes(source: Source, name: str) -> FileBytes:
    """Return the bytes of a file; they are read only when they are used.

    Those of a pipe are in memory, in a temporary file, or still in the pipe.
    """
    keep_all()
    try:
        if not isinstance(source, Path):
            return _kept_or_piped(source, name)
        if source.is_fifo():
            with source.open("rb") as pipe:
                return _kept_or_piped(pipe, name)
        return FileBytes(open_regular(source), name)
    except (OSError, ValueError) as error:
        if isinstance(source, Path) and isinstance(error, OSError) and source.is_dir():
            raise InputError(f"{name} is a folder, not an ONNX model", "give an .onnx file") from None
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{name} cannot be read ({reason})", "give an ONNX file") from None


def _kept_or_piped(file: IO[bytes], name: str) -> FileBytes:
    status = os.fstat(file.fileno())
    if stat.S_ISREG(status.st_mode):
        note_read(Path("/dev/stdin"), status)
        return FileBytes(file, name)
    return read_pipe(file, name)
