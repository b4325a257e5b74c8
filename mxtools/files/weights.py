"""Where the bytes of a model's tensors lie: in the message, in the file that it came from, or in a file beside it."""

from __future__ import annotations

import math
import mmap
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, TensorProto, numpy_helper
from onnx.helper import tensor_dtype_to_np_dtype

from mxtools.errors import InputError
from mxtools.files import wire

PIECE = 1 << 20

_ADOPTED = "\0"
"""Begins the location of an adopted tensor: no file can be named so, and a model that is read with such is refused."""

_REFERENCE = wire.REFERENCE.decode()

_PACKED = {"INT4": 4, "FLOAT4E2M1": 4, "INT2": 2}
"""Bits of the types, by how their names end, of which several elements lie in a byte."""


@dataclass(frozen=True)
class Place:
    """Where external data lie: file, offset and length in bytes."""

    file: Path
    offset: int
    length: int


@dataclass
class WeightStore:
    """Gives the bytes of tensors without reading more of them than is asked for."""

    source: memoryview = field(default_factory=lambda: memoryview(b""))
    """The model file, which references in deferred tensors point into."""
    folder: Path = Path()
    """What the locations of external data are relative to."""
    _maps: dict[Path, memoryview] = field(default_factory=dict)
    _files: dict[str, tuple[Path, int]] = field(default_factory=dict)
    """Files and their sizes, by location."""

    def adopt(self, tensor: TensorProto, other: WeightStore) -> None:
        """Make a tensor of another model one of this store's; what lies in a file beside that model stays there.

        Inline bytes are copied into the tensor. The other store can read it still. InputError as for `place`.
        """
        if is_deferred(tensor):
            tensor.CopyFrom(other.inline(tensor))
        elif is_external(tensor):
            other.place(tensor)
            entry = next(entry for entry in tensor.external_data if entry.key == "location")
            file = other._files[entry.value]
            entry.value = f"{_ADOPTED}{file[0]}"
            self._files[entry.value] = other._files[entry.value] = file

    def data(self, tensor: TensorProto) -> memoryview:
        """Give the bytes of a tensor, little-endian, without a copy where they lie in a file."""
        if is_deferred(tensor):
            offset, length, _ = wire.parse_reference(tensor.external_data[0].value)
            return self.source[offset : offset + length]
        if tensor.data_location == TensorProto.EXTERNAL:
            return self.view(self.place(tensor))
        return memoryview(tensor.raw_data if tensor.HasField("raw_data") else numpy_helper.to_array(tensor).tobytes())

    def array(self, tensor: TensorProto) -> npt.NDArray[Any]:
        """Give a tensor's values as an array of its shape and type."""
        return numpy_helper.to_array(self.inline(tensor))

    def inline(self, tensor: TensorProto) -> TensorProto:
        """Give a tensor that holds its bytes itself: the same, or a copy where they lie in a file."""
        if tensor.data_location != TensorProto.EXTERNAL:
            return tensor
        copy = TensorProto()
        copy.CopyFrom(tensor)
        copy.raw_data = bytes(self.data(tensor))
        copy.ClearField("external_data")
        copy.ClearField("data_location")
        return copy

    def view(self, place: Place) -> memoryview:
        """Give the bytes at a place, without a copy."""
        return self._map(place.file)[place.offset : place.offset + place.length]

    def pieces(self, place: Place) -> Iterator[bytes]:
        """Give the bytes at a place piece by piece, which is all that memory holds; InputError where some lack."""
        with place.file.open("rb", buffering=0) as file:
            file.seek(place.offset)
            left = place.length
            while left:
                piece = file.read(min(left, PIECE))
                if not piece:
                    raise InputError(f"{place.file.name} became shorter while it was read", "write elsewhere meanwhile")
                yield piece
                left -= len(piece)

    def streamed(self, tensor: TensorProto) -> Iterator[bytes | memoryview]:
        """Give the bytes of a tensor piece by piece; of what lies in a file memory holds no more than that."""
        if is_external(tensor):
            yield from self.pieces(self.place(tensor))
        elif is_deferred(tensor):
            offset, length, _ = wire.parse_reference(tensor.external_data[0].value)
            for start in range(offset, offset + length, PIECE):
                yield self.source[start : min(start + PIECE, offset + length)]
                if isinstance(self.source.obj, mmap.mmap):
                    first = start // mmap.PAGESIZE * mmap.PAGESIZE
                    self.source.obj.madvise(mmap.MADV_DONTNEED, first, PIECE)
        else:
            yield self.data(tensor)

    def place(self, tensor: TensorProto) -> Place:
        """Find the file and range of an external tensor.

        Raises InputError when the location leaves the folder, is no file, or is shorter than the tensor says.
        """
        said = {entry.key: entry.value for entry in tensor.external_data}
        location = said.get("location", "")
        if location not in self._files:
            self._files[location] = self._file(location, tensor.name)
        file, size = self._files[location]
        offset, length = (_number(said.get(key), tensor.name, key) for key in ("offset", "length"))
        offset = offset or 0
        length = size - offset if length is None else length
        if offset > size or offset + length > size:
            raise InputError(
                f"external data of {tensor.name!r} end after {file.name} does ({size} bytes)", "the file is truncated"
            )
        return Place(file, offset, length)

    def _file(self, location: str, name: str) -> tuple[Path, int]:
        if not location or "\0" in location or Path(location).is_absolute():
            raise InputError(f"external data of {name!r} are at {location!r}, no path relative to the model", "refused")
        base = self.folder.resolve()
        file = Path(os.path.realpath(base / location))
        if not file.is_relative_to(base):
            raise InputError(
                f"external data of {name!r} at {location!r} leave the folder {self.folder}", "give --data-dir"
            )
        try:
            found = file.stat()
        except OSError:
            raise InputError(
                f"external data of {name!r} are missing, {self.folder / location}", "put them there or give --data-dir"
            ) from None
        if not stat.S_ISREG(found.st_mode):
            raise InputError(f"external data of {name!r} at {location!r} are no regular file", "refused")
        return file, found.st_size

    def _map(self, file: Path) -> memoryview:
        if file not in self._maps:
            self._maps[file] = mapped(file)
        return self._maps[file]


def mapped(file: Path) -> memoryview:
    """Give a file's bytes, read when they are used."""
    with file.open("rb") as opened:
        return (
            memoryview(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ))
            if file.stat().st_size
            else memoryview(b"")
        )


def bytes_of(tensor: TensorProto) -> int:
    """Give the bytes of a tensor's elements, by its type and dimensions; small integers lie several in a byte."""
    if tensor.data_type == TensorProto.STRING:
        return sum(len(text) for text in tensor.string_data)
    count, name = int(math.prod(tensor.dims)), TensorProto.DataType.Name(tensor.data_type)
    packed = next((bits for end, bits in _PACKED.items() if name.endswith(end)), None)
    if packed:
        return -(-count * packed // 8)
    return count * int(tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def is_deferred(tensor: TensorProto) -> bool:
    """Tell whether a tensor's bytes were left in the file that the model came from."""
    return (
        tensor.data_location == TensorProto.EXTERNAL
        and len(tensor.external_data) == 1
        and tensor.external_data[0].value.endswith(_REFERENCE)
    )


def is_external(tensor: TensorProto) -> bool:
    """Tell whether a tensor's bytes lie in a file beside the model."""
    return tensor.data_location == TensorProto.EXTERNAL and not is_deferred(tensor)


def is_adopted(tensor: TensorProto) -> bool:
    """Tell whether a tensor's bytes lie in a file beside another model."""
    return is_external(tensor) and any(
        entry.key == "location" and entry.value.startswith(_ADOPTED) for entry in tensor.external_data
    )


def is_same(one: TensorProto, weights: WeightStore, other: TensorProto, others: WeightStore) -> bool:
    """Tell whether two tensors have the same type, dimensions and bytes, each read from its own store."""
    if (one.data_type, list(one.dims)) != (other.data_type, list(other.dims)):
        return False
    if one.data_type == TensorProto.STRING:
        return list(one.string_data) == list(other.string_data)
    if is_external(one) and is_external(other) and weights.place(one) == others.place(other):
        return True
    a, b = weights.data(one), others.data(other)
    return len(a) == len(b) and (not len(a) or np.array_equal(np.frombuffer(a, "u1"), np.frombuffer(b, "u1")))


def keep_external(model: ModelProto, weights: WeightStore, earlier: ModelProto, others: WeightStore) -> None:
    """Let initializers that lay in a file beside an earlier model, and are the same still, lie there again."""
    known = {tensor.name: tensor for tensor in earlier.graph.initializer if is_external(tensor)}
    for tensor in model.graph.initializer:
        before = known.get(tensor.name)
        if before is not None and is_same(tensor, weights, before, others):
            tensor.CopyFrom(before)
            if others is not weights:
                weights.adopt(tensor, others)


def inline_within(model: ModelProto, weights: WeightStore, folder: Path) -> None:
    """Take the tensors that lie in files of a folder into the model."""
    base = Path(os.path.realpath(folder))
    for tensor in tensors_of(model):
        if is_external(tensor) and weights.place(tensor).file.is_relative_to(base):
            tensor.CopyFrom(weights.inline(tensor))


def tensors_of(model: ModelProto) -> Iterator[TensorProto]:
    """Give every tensor of a model: initializers and attributes, of graphs, bodies, functions and training."""
    yield from _of_graph(model.graph)
    for function in model.functions:
        yield from _of_nodes(function)
    for training in model.training_info:
        yield from _of_graph(training.initialization)
        yield from _of_graph(training.algorithm)


def _of_graph(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _of_nodes(graph)


def _of_nodes(holder: GraphProto | FunctionProto) -> Iterator[TensorProto]:
    for node in holder.node:
        for attribute in node.attribute:
            yield from _of_attribute(attribute)
    if isinstance(holder, FunctionProto):
        for attribute in holder.attribute_proto:
            yield from _of_attribute(attribute)


def _of_attribute(attribute: AttributeProto) -> Iterator[TensorProto]:
    if attribute.type == AttributeProto.TENSOR:
        yield attribute.t
    yield from attribute.tensors
    sparse = [attribute.sparse_tensor] if attribute.type == AttributeProto.SPARSE_TENSOR else []
    for tensor in (*sparse, *attribute.sparse_tensors):
        yield from (tensor.values, tensor.indices)
    graphs = [attribute.g] if attribute.type == AttributeProto.GRAPH else []
    for graph in (*graphs, *attribute.graphs):
        yield from _of_graph(graph)


def _number(text: str | None, name: str, key: str) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal()):
        raise InputError(f"external data of {name!r} have {key} {text[:40]!r}, no number", "the file is damaged")
    return int(text[:30])
