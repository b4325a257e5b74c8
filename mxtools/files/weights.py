"""Where the bytes of a model's tensors lie: in the message, in the file that it came from, or in a file beside it.

A tensor is in one of four states, and code that needs bytes asks a `WeightStore` instead of the tensor:

- plain: the tensor holds its bytes itself (`raw_data` or a typed field);
- deferred: it was inline in the file that the model was read from, and is a reference into that file (`files/wire.py`);
- external: its bytes lie in another file, as ONNX's external data, at a location relative to the store's folder;
- adopted: as external, but beside another model; the location is then absolute and marked, see `WeightStore.adopt`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, TensorProto

from mxtools.errors import InputError
from mxtools.files import wire
from mxtools.files.elements import PLAIN, size_of_elements
from mxtools.files.regular import Bytes, FileBytes, State, open_regular, state, status_of

if TYPE_CHECKING:
    import numpy.typing as npt

MOST_OPEN = 32
"""Files of external data that are kept open: some models have one for each tensor, and a process may open only 256."""

_ADOPTED = "\0"
"""Begins the location of an adopted tensor. No file name can contain it, and `place` refuses files that do."""

_REFERENCE = wire.REFERENCE.decode()


@dataclass(frozen=True)
class DataPlace:
    """Where external data lie: file, offset and length in bytes."""

    file: Path
    offset: int
    length: int


@dataclass
class WeightStore:
    """Reads the bytes of a model's tensors when they are asked for, and no others."""

    source: Bytes = field(default_factory=lambda: memoryview(b""))
    """The bytes of the file that the model was read from; references in deferred tensors point into them."""
    folder: Path = Path()
    """The folder to which the locations of external data are relative."""
    kept: list[Any] = field(default_factory=list)
    """What has to live as long as the store does, such as a temporary folder with its files."""
    base: Path | None = None
    """The same folder, resolved when the first tensor was placed: the process may change its own folder later."""
    _opened: dict[Path, FileBytes] = field(default_factory=dict)
    """Files of external data that are open: the ones last used, and those that were replaced since."""
    _files: dict[str, tuple[Path, int]] = field(default_factory=dict)
    """Path and size in bytes of files of external data, by location."""
    _states: dict[Path, State] = field(default_factory=dict)
    """The state of each file at the time when its tensors were placed."""
    _kept_open: set[Path] = field(default_factory=set)

    def adopt(self, tensor: TensorProto, other: WeightStore) -> None:
        """Let this store read a tensor of another store's model, in place; the other store can still read it.

        Bytes that are inline in the other model's file are copied into the tensor. Bytes in a file beside the other
        model stay there, however many they are. Their location, such as `w.data`, is relative to the other store's
        folder and would mean another file here. So it becomes the absolute path behind a NUL, `NUL/models/w.data`, and
        both stores know that this is the file. Writing a model moves adopted bytes into its own file of external data.
        Raises InputError as `place` does.
        """
        if is_deferred(tensor):
            tensor.CopyFrom(other.inline(tensor))
        elif is_external(tensor):
            other.place(tensor)
            entry = next(entry for entry in tensor.external_data if entry.key == "location")
            path, size = other._files[entry.value]
            entry.value = f"{_ADOPTED}{path}"
            self._files[entry.value] = other._files[entry.value] = (path, size)
            self._states[path] = other._states[path]

    def files(self) -> set[Path]:
        """Return the files of external data that have tensors."""
        return set(self._states)

    def keep_open(self, file: Path) -> None:
        """Keep the bytes of a file readable that is about to be replaced."""
        if file in self._states:
            self._open(file)
            self._kept_open.add(file)

    def is_found(self, tensor: TensorProto) -> bool:
        """Return whether a tensor's bytes are where its location says, in the store's folder."""
        if is_adopted(tensor):
            return False
        file = self.place(tensor).file
        status = status_of(file)
        return status is not None and state(status) == self._states[file]

    def data(self, tensor: TensorProto) -> memoryview:
        """Return the bytes of a tensor, little-endian; they are read if they are in a file."""
        if is_deferred(tensor):
            offset, length, _ = wire.parse_reference(tensor.external_data[0].value)
            return memoryview(self.source[offset : offset + length])
        if tensor.data_location == TensorProto.EXTERNAL:
            place = self.place(tensor)
            return memoryview(self._open(place.file)[place.offset : place.offset + place.length])
        return memoryview(
            tensor.raw_data if tensor.HasField("raw_data") else onnx.numpy_helper.to_array(tensor).tobytes()
        )

    def array(self, tensor: TensorProto) -> npt.NDArray[Any]:
        """Return a tensor's values as an array of its shape and type."""
        return onnx.numpy_helper.to_array(self.inline(tensor))

    def inline(self, tensor: TensorProto) -> TensorProto:
        """Return a tensor that has its bytes itself: the same object, or a copy if its bytes are in a file."""
        if tensor.data_location != TensorProto.EXTERNAL:
            return tensor
        copy = TensorProto()
        copy.CopyFrom(tensor)
        copy.raw_data = bytes(self.data(tensor))
        copy.ClearField("external_data")
        copy.ClearField("data_location")
        return copy

    def pieces(self, place: DataPlace) -> Iterator[bytes]:
        """Return the bytes at a place, piece by piece; InputError if some are missing."""
        return self._open(place.file).pieces(place.offset, place.length)

    def stretch(self, place: DataPlace) -> wire.Stretch:
        """Return the bytes at a place, to be written; InputError if another file is there by now."""
        return wire.Stretch(self._open(place.file), place.offset, place.length)

    def streamed(self, tensor: TensorProto) -> Iterator[bytes | memoryview]:
        """Yield the bytes of a tensor piece by piece; if they are in a file, one piece at a time is in memory."""
        if is_external(tensor):
            yield from self.pieces(self.place(tensor))
        elif is_deferred(tensor):
            offset, length, _ = wire.parse_reference(tensor.external_data[0].value)
            yield from wire.pieces(self.source, offset, length)
        else:
            yield self.data(tensor)

    def beginning(self, tensor: TensorProto, length: int) -> memoryview:
        """Return the first bytes of a tensor, so many of them as there are; no others are read."""
        if is_external(tensor):
            return memoryview(self.stretch(self.place(tensor)).beginning(length))
        if is_deferred(tensor):
            offset, whole, _ = wire.parse_reference(tensor.external_data[0].value)
            return memoryview(wire.Stretch(self.source, offset, whole).beginning(length))
        return self.data(tensor)[:length]

    def digest(self, tensor: TensorProto) -> bytes:
        """Return a digest of a tensor's elements; it does not depend on where and how they are stored."""
        state = blake2b(digest_size=16)
        is_text = tensor.data_type == TensorProto.STRING
        parts = (b"%d:%s" % (len(text), text) for text in tensor.string_data) if is_text else self.streamed(tensor)
        for part in parts:
            state.update(part)
        return state.digest()

    def place(self, tensor: TensorProto) -> DataPlace:
        """Return the file and the range of bytes of an external tensor.

        Raises InputError if the location leaves the folder or is not a file, or if the file ends before the tensor
        does.
        """
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        if location not in self._files:
            self._files[location] = self._file(location, tensor.name)
        file, size = self._files[location]
        offset, length = (_number(entries.get(key), tensor.name, key) for key in ("offset", "length"))
        offset = offset or 0
        length = bytes_of(tensor) if length is None else length
        if offset > size or offset + length > size:
            raise InputError(
                f"external data of {tensor.name!r} end beyond the end of {file.name} ({size} bytes)",
                "the file is truncated",
            )
        if length != bytes_of(tensor):
            raise InputError(
                f"{tensor.name!r} has {length} bytes of external data, but its dimensions need {bytes_of(tensor)}",
                "fix the program that made the file, or export again",
            )
        return DataPlace(file, offset, length)

    def _file(self, location: str, name: str) -> tuple[Path, int]:
        """Return path and size of the file at a location; `name` is the tensor's, for messages."""
        if not location or "\0" in location or Path(location).is_absolute():
            raise InputError(
                f"external data of {name!r} are at {location!r}, which is not a path relative to the model", "refused"
            )
        # Anybody may have made the file with the location: `../../etc/passwd`, or a link to it, must not be read into a
        # model that is passed on.
        base = self.base = self.base or self.folder.resolve()
        file = Path(os.path.realpath(base / location))
        if not file.is_relative_to(base):
            raise InputError(
                f"external data of {name!r} at {location!r} are outside the folder {self.folder}", "give ⟨data-dir⟩"
            )
        try:
            with open_regular(file) as opened:
                status = os.fstat(opened.fileno())
        except InputError:
            raise InputError(
                f"external data of {name!r} at {location!r} are not in a regular file", "refused"
            ) from None
        except OSError:
            raise InputError(
                f"external data of {name!r} are missing: there is no {self.folder / location}",
                "put the file there, or give ⟨data-dir⟩",
            ) from None
        self._states[file] = state(status)
        return file, status.st_size

    def _open(self, file: Path) -> FileBytes:
        """Return the bytes of a file of external data; InputError if another file has taken its place."""
        if file not in self._opened:
            try:
                opened = open_regular(file)
            except OSError as error:
                raise InputError(f"{file} cannot be read ({error.strerror})", "load the model again") from None
            if state(os.fstat(opened.fileno())) != self._states[file]:
                raise InputError(f"{file} was replaced or written to since the model was read", "load the model again")
            old = [name for name in self._opened if name not in self._kept_open]
            for name in old[: len(old) - MOST_OPEN + 1]:
                del self._opened[name]
            self._opened[file] = FileBytes(opened, file.name)
        return self._opened[file]


def bytes_of(tensor: TensorProto) -> int:
    """Return how many bytes a tensor's elements take, by its type and dimensions; types below 8 bits are packed."""
    if tensor.data_type == TensorProto.STRING:
        return sum(len(text) for text in tensor.string_data)
    return size_of_elements(tensor.data_type, math.prod(tensor.dims))


def is_deferred(tensor: TensorProto) -> bool:
    """Return whether a tensor's bytes are still in the file that the model came from."""
    return (
        tensor.data_location == TensorProto.EXTERNAL
        and len(tensor.external_data) == 1
        and tensor.external_data[0].value.endswith(_REFERENCE)
    )


def is_external(tensor: TensorProto) -> bool:
    """Return whether a tensor's bytes lie in a file beside the model."""
    return tensor.data_location == TensorProto.EXTERNAL and not is_deferred(tensor)


def is_adopted(tensor: TensorProto) -> bool:
    """Return whether a tensor's bytes lie in a file beside another model."""
    return is_external(tensor) and any(
        entry.key == "location" and entry.value.startswith(_ADOPTED) for entry in tensor.external_data
    )


def is_same(one: TensorProto, weights: WeightStore, other: TensorProto, others: WeightStore) -> bool:
    """Return whether two tensors have the same type, dimensions and bytes, each read from its own store."""
    import numpy as np

    if (one.data_type, list(one.dims)) != (other.data_type, list(other.dims)):
        return False
    if one.data_type == TensorProto.STRING:
        return list(one.string_data) == list(other.string_data)
    if is_external(one) and is_external(other) and weights.place(one) == others.place(other):
        return True
    a, b = weights.data(one), others.data(other)
    return len(a) == len(b) and (not len(a) or np.array_equal(np.frombuffer(a, "u1"), np.frombuffer(b, "u1")))


def keep_external(model: ModelProto, weights: WeightStore, earlier: ModelProto, others: WeightStore) -> None:
    """Move initializers back into the file beside an earlier model that they were in, if their bytes are the same.

    Tools take external data into the model; without this, every run of a tool would copy all weights.
    """
    known = {tensor.name: tensor for tensor in earlier.graph.initializer if is_external(tensor)}
    for tensor in model.graph.initializer:
        before = known.get(tensor.name)
        if before is not None and is_same(tensor, weights, before, others):
            tensor.CopyFrom(before)
            if others is not weights:
                weights.adopt(tensor, others)


def inline_within(model: ModelProto, weights: WeightStore, folder: Path) -> None:
    """Read the tensors in files of a folder into the model, for example before the folder is removed."""
    base = Path(os.path.realpath(folder))
    for tensor in tensors_of(model):
        if is_external(tensor) and weights.place(tensor).file.is_relative_to(base):
            tensor.CopyFrom(weights.inline(tensor))


def tensors_of(model: ModelProto) -> Iterator[TensorProto]:
    """Yield every tensor of a model: initializers and attributes, of graphs, bodies, functions and training."""
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
    plain, tensor = PLAIN, AttributeProto.TENSOR
    for node in holder.node:
        for attribute in node.attribute:
            if (kind := attribute.type) == tensor:  # by far the most that hold any
                yield attribute.t
            elif kind not in plain:
                yield from _of_attribute(attribute)
    if isinstance(holder, FunctionProto):
        for attribute in holder.attribute_proto:
            yield from _of_attribute(attribute)


def _of_attribute(attribute: AttributeProto) -> Iterator[TensorProto]:
    """Yield the tensors in the field of an attribute that its type names; nobody reads what is in others."""
    kind = attribute.type
    if kind == AttributeProto.TENSOR:
        yield attribute.t
    elif kind == AttributeProto.TENSORS:
        yield from attribute.tensors
    elif kind in (AttributeProto.SPARSE_TENSOR, AttributeProto.SPARSE_TENSORS):
        is_one = kind == AttributeProto.SPARSE_TENSOR
        for sparse in (attribute.sparse_tensor,) if is_one else attribute.sparse_tensors:
            yield from (sparse.values, sparse.indices)
    elif kind in (AttributeProto.GRAPH, AttributeProto.GRAPHS):
        for graph in (attribute.g,) if kind == AttributeProto.GRAPH else attribute.graphs:
            yield from _of_graph(graph)


def _number(text: str | None, name: str, key: str) -> int | None:
    """Return the number in an entry of external data, None without an entry; InputError if it is not a number."""
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal()):
        raise InputError(
            f"external data of {name!r} have {key} {text[:40]!r}, which is not a number", "the file is damaged"
        )
    return int(text[:30])
