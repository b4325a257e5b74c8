"""Writing models, with the bytes of only those weights that they use.

Weights that were inline are written inline. External weights stay external. Beside a file, they are in one file
`NAME.onnx.data`. On a pipe, no bytes of them are written; their locations are relative to a folder.
"""

from __future__ import annotations

import io
import os
from collections.abc import Container, Iterable
from pathlib import Path
from typing import IO, BinaryIO

from google.protobuf.message import DecodeError
from onnx import ModelProto, StringStringEntryProto, TensorProto

from mxtools.errors import UsageError
from mxtools.files import wire
from mxtools.files.atomic import atomic_output, write_pair
from mxtools.files.reading import read_model
from mxtools.files.regular import one_command, reserve
from mxtools.files.stream import PipeBytes, announced
from mxtools.files.weights import DataPlace, WeightStore, is_deferred, is_external, tensors_of

SMALL = 1024
"""External tensors with fewer bytes are written inline."""
ALIGNMENT = 64
"""The offset of an external tensor is a multiple of this."""
PAGE = 4096
"""Replaces ALIGNMENT for tensors of 1 MiB and more: runtimes can map these page by page."""


def write_model(proto: ModelProto, weights: WeightStore, path: Path, last: bool = False) -> None:
    """Write a model to a file, external weights to `NAME.onnx.data` beside it; the same model gives the same bytes.

    `last` says that nothing needs the weights afterwards, so those in a pipe need not be kept. Raises OutputError if a
    file cannot be written, UsageError if the model without external data exceeds 2 GiB.
    """
    beside = f"{Path(os.path.realpath(path)).name}.data"
    if not any(map(is_external, tensors_of(proto))):
        _write_alone(proto, weights, path, beside, last)
        return
    data = _DataFile(weights, beside)
    copy = data.moved_here(proto)
    if not data:
        _write_alone(copy, weights, path, beside, last)
        return
    for file in weights.files():
        if file.parent == Path(os.path.realpath(path)).parent and file.name.startswith(Path(beside).stem):
            weights.keep_open(file)  # for anybody who goes on working with the model
    write_pair(path, beside, lambda file, name: _write_parts(file, _relocated(copy, name), weights), data.write)


def _write_alone(proto: ModelProto, weights: WeightStore, path: Path, beside: str, last: bool) -> None:
    """Write a model that needs no other file, over one that may have had data beside it."""
    with atomic_output(path, beside) as file:
        _write_parts(file, proto, weights, last)


def write_moved(source: Path, file: BinaryIO, location: str) -> None:
    """Write the model in another file, with another location for its external data."""
    with one_command():  # the file is this command's own, not one that it was given
        proto, weights = read_model(source, source.name, placing=False)
        _write_parts(file, _relocated(proto, location), weights)


def _relocated(proto: ModelProto, location: str) -> ModelProto:
    """Give all external data of a model another location; return the model."""
    for tensor in tensors_of(proto):
        if is_external(tensor):
            _set_external(tensor, location=location)
    return proto


def write_stream(proto: ModelProto, weights: WeightStore, stream: IO[bytes], folder: Path = Path()) -> None:
    """Write a model to a pipe, for the last time; external data stay in their files, with locations from `folder`.

    Raises UsageError if the model exceeds 2 GiB, or if its external data lie outside of the folder.
    """
    external = any(map(is_external, tensors_of(proto)))
    _write_parts(stream, _referring(proto, weights, folder) if external else proto, weights, last=True)
    stream.flush()


def write_models(
    models: Iterable[tuple[str, ModelProto]], weights: WeightStore, folder: Path, location: str, shared: Container[str]
) -> bool:
    """Write models, with their file names, into a new folder; return whether a file of external data was needed.

    This one file, `location`, has the external weights of all models, and the inline weights whose names are in
    `shared`; the same bytes are in it only once. Raises OSError if a file cannot be written, UsageError if a model
    exceeds 2 GiB.
    """
    data = _DataFile(weights, location, shared)
    for name, proto in models:
        with (folder / name).open("wb") as file:
            _write_parts(file, data.moved_here(proto), weights)
    if data:
        with (folder / location).open("wb") as file:
            data.write(file)
    return bool(data)


def materialise(proto: ModelProto, weights: WeightStore) -> ModelProto:
    """Return a copy of a model with its weights in it; UsageError if it exceeds 2 GiB."""
    copy = ModelProto()
    copy.ParseFromString(serialised(proto, weights))
    for tensor in tensors_of(copy):
        if is_external(tensor):
            tensor.CopyFrom(weights.inline(tensor))
    return copy


def with_data_in(proto: ModelProto, weights: WeightStore, folder: Path, least: int) -> ModelProto:
    """Return a copy of a model; its inline weights of at least `least` bytes are in a new file in a folder."""
    references = {t.name: t.external_data[0].value for t in tensors_of(proto) if is_deferred(t)}
    large = {name for name, reference in references.items() if wire.parse_reference(reference)[1] >= least}
    data = _DataFile(weights, "weights.data", large)
    moved = data.moved_here(proto)
    with (folder / data.location).open("wb") as file:
        data.write(file)
    return moved


def serialised(proto: ModelProto, weights: WeightStore) -> bytes:
    """Return the bytes of a model, with the weights that were inline in its file; UsageError if they exceed 2 GiB."""
    buffer = io.BytesIO()
    _write_parts(buffer, proto, weights)
    return buffer.getvalue()


def _write_parts(file: IO[bytes], proto: ModelProto, weights: WeightStore, last: bool = False) -> None:
    """Write a model with its deferred weights; UsageError if it is larger than protobuf can read."""
    source = weights.source
    try:
        skeleton = proto.SerializeToString()
        parts = (last and announced(file, skeleton, source)) or wire.joined(skeleton, source)
    except (ValueError, DecodeError) as error:
        raise UsageError(
            f"the graph cannot be serialised ({error})", "it is larger than 2 GiB without its weights"
        ) from None
    size = sum(map(len, parts))
    if size > wire.LIMIT:
        raise UsageError(
            "the model with its weights is larger than 2 GiB, the limit of ONNX files", "keep its weights external"
        )
    parts = wire.merged(parts, source)
    reserve(file, size)
    if last and isinstance(source, PipeBytes):
        source.write_last(file, parts)
    else:
        for part in parts:
            wire.write(part, file)


def _referring(proto: ModelProto, weights: WeightStore, folder: Path) -> ModelProto:
    """Return a copy whose external locations are relative to a folder; UsageError if one lies outside of it."""
    copy, base = ModelProto(), Path(os.path.realpath(folder))
    copy.CopyFrom(proto)
    for tensor in tensors_of(copy):
        if is_external(tensor):
            file = weights.place(tensor).file
            if not file.is_relative_to(base):
                raise UsageError(
                    f"the weights are in {file.parent.name}/{file.name}, outside {folder.absolute()}",
                    "write to a file with ⟨output⟩, or give as ⟨data-dir⟩ a folder that contains the weights",
                )
            _set_external(tensor, location=file.relative_to(base).as_posix())
    return copy


class _DataFile:
    """The plan of one file of external data for one or several models; the same bytes get one place in it."""

    def __init__(self, weights: WeightStore, location: str, shared: Container[str] = ()) -> None:
        """Begin an empty file. It also takes the inline initializers whose names are in `shared`."""
        self.location = location
        self._weights, self._shared = weights, shared
        self._offsets: dict[DataPlace | str, int] = {}
        self._end = 0

    def __len__(self) -> int:
        """Return the size of the file in bytes."""
        return self._end

    def moved_here(self, proto: ModelProto) -> ModelProto:
        """Return a copy of a model whose external tensors lie in this file; small ones become inline."""
        copy = ModelProto()
        copy.CopyFrom(proto)
        for tensor in tensors_of(copy):
            if is_external(tensor):
                place = self._weights.place(tensor)
                if place.length < SMALL:
                    tensor.CopyFrom(self._weights.inline(tensor))
                else:
                    self._move(tensor, place, place.length)
            elif is_deferred(tensor) and tensor.name in self._shared:
                reference = tensor.external_data[0].value
                del tensor.external_data[:]
                self._move(tensor, reference, wire.parse_reference(reference)[1])
        return copy

    def write(self, file: BinaryIO) -> None:
        """Write the bytes of all tensors that were moved here, with zeros between them."""
        reserve(file, self._end)
        for place, offset in self._offsets.items():
            file.write(bytes(offset - file.tell()))
            if isinstance(place, DataPlace):
                self._weights.stretch(place).write_to(file)
            else:
                start, length, _ = wire.parse_reference(place)
                wire.Stretch(self._weights.source, start, length).write_to(file)

    def _move(self, tensor: TensorProto, place: DataPlace | str, length: int) -> None:
        """Give a tensor its place in this file; `place` says where its bytes are: external, or a reference."""
        if place not in self._offsets:
            step = PAGE if length >= 1 << 20 else ALIGNMENT
            self._offsets[place] = -(-self._end // step) * step  # rounded up to a multiple
            self._end = self._offsets[place] + length
        _set_external(tensor, location=self.location, offset=str(self._offsets[place]), length=str(length))


def _set_external(tensor: TensorProto, **values: str) -> None:
    """Change entries of a tensor's external data, and drop its checksum, which belongs to the old file."""
    entries = {entry.key: entry.value for entry in tensor.external_data if entry.key != "checksum"} | values
    del tensor.external_data[:]
    tensor.external_data.extend(StringStringEntryProto(key=key, value=value) for key, value in entries.items())
