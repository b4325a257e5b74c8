"""Reading and writing models: files and pipes, weights left where they lie until they are written.

What came inline goes out inline; what came external goes out external: in one `NAME.onnx.data` beside a file, and by
reference on a pipe, where locations are relative to the working directory, or to `data_dir`.
"""

from __future__ import annotations

import io
import mmap
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO

from google.protobuf.message import DecodeError
from onnx import ModelProto, StringStringEntryProto, TensorProto

from mxtools.errors import InputError, OutputError, UsageError
from mxtools.files import wire
from mxtools.files.weights import Place, WeightStore, is_deferred, is_external, tensors_of

SMALL = 1024
"""External tensors of fewer bytes are written inline."""
ALIGNMENT = 64
PAGE = 4096
PROTOBUF_LIMIT = 2**31 - 1

Target = str | Path | None


@dataclass
class LoadedModel:
    """A model without its weights, these, and what to call it in messages."""

    proto: ModelProto
    weights: WeightStore
    name: str


def read_model(source: Target, data_dir: Path | None = None, placing: bool = True) -> LoadedModel:
    """Read a model from a file, or from stdin for None or '-'.

    Raises InputError where there is no file, it holds no model or not all of one, or, if they are to be found now
    (`placing`), external data are not there.
    """
    name = "stdin" if is_pipe(source) else str(source)
    data = _bytes(source, name)
    if not len(data):
        raise InputError(f"{name} is empty, no ONNX model: check the command that writes it")
    proto, skeleton = _parse(data, name)
    folder = data_dir or (Path() if is_pipe(source) else Path(str(source)).parent)
    if not folder.is_dir():
        raise UsageError(f"--data-dir {folder} is no folder")
    weights = WeightStore(data, folder)
    if placing and b"location" in skeleton:
        for tensor in tensors_of(proto):
            if is_external(tensor):
                weights.place(tensor)
    return LoadedModel(proto, weights, name)


def _parse(data: memoryview, name: str) -> tuple[ModelProto, bytes]:
    """Parse a model around its weights; give it and the bytes that were parsed."""
    try:
        skeleton, deferred = wire.split(data)
        proto = ModelProto.FromString(skeleton)
    except (wire.WireError, DecodeError):
        raise InputError(f"{name} is no ONNX model, or only the beginning of one: export it again") from None
    if skeleton.count(wire.REFERENCE) != deferred:
        raise InputError(f"{name} uses the name {wire.REFERENCE.decode()!r}, which is reserved: rename it")
    if not proto.HasField("graph") or not proto.ir_version or (proto.ir_version >= 3 and not proto.opset_import):
        raise InputError(
            f"{name} is no ONNX model, or only the beginning of one: it lacks graph, IR version or operator sets"
        )
    return proto, skeleton


def is_pipe(place: Target) -> bool:
    """Tell whether a source or target is stdin or stdout."""
    return place is None or str(place) in ("", "-")


def _bytes(source: Target, name: str) -> memoryview:
    """Give the bytes of a file, mapped; what is no regular file is first spooled to an unnamed one."""
    try:
        with open(0, "rb", closefd=False) if is_pipe(source) else open(str(source), "rb") as file:  # noqa: PTH123
            if is_pipe(source) and os.isatty(0):
                raise UsageError("a model is expected on stdin, which is a terminal: give a file or use a pipe")
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return _map(file)
            with tempfile.TemporaryFile() as spool:
                shutil.copyfileobj(file, spool, 1 << 20)
                spool.flush()
                return _map(spool)
    except OSError as error:
        raise InputError(f"{name} cannot be read ({error.strerror or error}): give an ONNX file") from None


def _map(file: IO[bytes]) -> memoryview:
    size = os.fstat(file.fileno()).st_size
    return memoryview(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)) if size else memoryview(b"")


def read_bytes(source: Target) -> bytes:
    """Read a whole file, or stdin for None or '-'; InputError where that is not possible."""
    try:
        return sys.stdin.buffer.read() if is_pipe(source) else Path(str(source)).read_bytes()
    except OSError as error:
        raise InputError(f"{source} cannot be read ({error.strerror or error}): give a file that exists") from None


def write_model(proto: ModelProto, weights: WeightStore, target: Target, data_dir: Path | None = None) -> None:
    """Write a model to a file, or to stdout for None or '-'; the same model gives the same bytes.

    Raises OutputError where a file cannot be written, UsageError where a pipe cannot carry the model.
    """
    external = [t for t in tensors_of(proto) if is_external(t)]
    if is_pipe(target):
        proto = _referring(proto, weights, data_dir or Path()) if external else proto
        _write_parts(sys.stdout.buffer, proto, weights)
        sys.stdout.buffer.flush()
        return
    path = Path(str(target))
    if not external:
        with atomic_output(path) as file:
            _write_parts(file, proto, weights)
        return
    data = _DataFile(weights, path.name + ".data")
    with atomic_output(path) as file:
        _write_parts(file, data.moved(proto), weights)
        if data:
            with atomic_output(path.with_name(data.location)) as beside:
                data.write(beside)


def write_models(
    models: Iterable[tuple[str, ModelProto]], weights: WeightStore, folder: Path, location: str, shared: Container[str]
) -> bool:
    """Write models into a new folder, by file name; tell whether they needed the file of external data, `location`.

    It holds what came external, and of what came inline the initializers of the names `shared`, the same bytes once.
    Raises OutputError where a file cannot be written, UsageError where a model is too large for one.
    """
    data = _DataFile(weights, location, shared)
    for name, proto in models:
        with atomic_output(folder / name) as file:
            _write_parts(file, data.moved(proto), weights)
    if data:
        with atomic_output(folder / location) as file:
            data.write(file)
    return bool(data)


def materialise(proto: ModelProto, weights: WeightStore) -> ModelProto:
    """Give a copy that holds its weights itself; UsageError where that would be more than 2 GiB."""
    buffer = io.BytesIO()
    _write_parts(buffer, proto, weights)
    copy = ModelProto()
    copy.ParseFromString(buffer.getvalue())
    for tensor in tensors_of(copy):
        if is_external(tensor):
            tensor.CopyFrom(weights.inline(tensor))
    return copy


def _write_parts(file: BinaryIO, proto: ModelProto, weights: WeightStore) -> None:
    try:
        parts = wire.joined(proto.SerializeToString(), weights.source)
    except (ValueError, DecodeError) as error:
        raise UsageError(
            f"the graph cannot be serialised ({error}): it is larger than 2 GiB without its weights"
        ) from None
    if sum(map(len, parts)) > PROTOBUF_LIMIT:
        raise UsageError(
            "the model with its weights is larger than 2 GiB, which no ONNX file can be: keep its weights external"
        )
    for part in parts:
        file.write(part)


def _referring(proto: ModelProto, weights: WeightStore, folder: Path) -> ModelProto:
    """Give a copy whose external locations are relative to a folder; UsageError where they lie outside of it."""
    copy, base = ModelProto(), Path(os.path.realpath(folder))
    copy.CopyFrom(proto)
    for tensor in tensors_of(copy):
        if is_external(tensor):
            file = weights.place(tensor).file
            if not file.is_relative_to(base):
                raise UsageError(
                    f"the weights lie in {file.parent.name}/{file.name}, outside of {folder.absolute()}: "
                    "write to a file with -o, or say with --data-dir what a pipe's locations are relative to"
                )
            _set_external(tensor, location=file.relative_to(base).as_posix())
    return copy


class _DataFile:
    """One file of external data, for one or several models: the same bytes lie in it once."""

    def __init__(self, weights: WeightStore, location: str, shared: Container[str] = ()) -> None:
        """Begin an empty file; of what came inline it takes the initializers of the names `shared`."""
        self.location = location
        self._weights, self._shared = weights, shared
        self._offsets: dict[Place | str, int] = {}
        self._end = 0

    def __len__(self) -> int:
        """Give the bytes of the file."""
        return self._end

    def moved(self, proto: ModelProto) -> ModelProto:
        """Give a copy of a model whose external tensors lie in this file, small ones inline."""
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
                reference = tensor.external_data.pop().value
                self._move(tensor, reference, wire.parse_reference(reference)[1])
        return copy

    def write(self, file: BinaryIO) -> None:
        """Write the bytes of all tensors that were moved."""
        for place, offset in self._offsets.items():
            file.write(bytes(offset - file.tell()))
            if isinstance(place, Place):
                file.writelines(self._weights.pieces(place))
            else:
                start, length, _ = wire.parse_reference(place)
                file.write(self._weights.source[start : start + length])

    def _move(self, tensor: TensorProto, place: Place | str, length: int) -> None:
        """Let a tensor lie in this file, given where its bytes are: in a file, or, as a reference, in the model's."""
        if place not in self._offsets:
            step = PAGE if length >= 1 << 20 else ALIGNMENT
            self._offsets[place] = -(-self._end // step) * step
            self._end = self._offsets[place] + length
        _set_external(tensor, location=self.location, offset=str(self._offsets[place]), length=str(length))


def _set_external(tensor: TensorProto, **values: str) -> None:
    """Change entries of a tensor's external data; a checksum goes where the bytes move."""
    said = {entry.key: entry.value for entry in tensor.external_data if entry.key != "checksum"} | values
    del tensor.external_data[:]
    tensor.external_data.extend(StringStringEntryProto(key=key, value=value) for key, value in said.items())


@contextmanager
def atomic_output(path: Path) -> Iterator[BinaryIO]:
    """Give a file that takes the place of `path` when it is complete; on any failure what was there stays.

    Raises OutputError where the folder does not exist or cannot be written to. A device or pipe is written to directly.
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
        raise OutputError(_unwritable(path, error)) from None
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        os.chmod(name, stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o666 & ~_umask())  # noqa: PTH101
        os.replace(name, target)  # noqa: PTH105
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise OutputError(_unwritable(path, error)) from None
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name)  # noqa: PTH108


def check_writable(target: Target) -> None:
    """Refuse, before any work is done, a file that cannot be written."""
    path = Path(os.path.realpath(str(target)))
    if path.is_dir():
        raise OutputError(f"{target} is a folder: give the name of a file")
    if not path.parent.is_dir():
        raise OutputError(
            f"{target} cannot be written, its folder {path.parent} does not exist: make it or give another -o"
        )
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"{target} cannot be written, its folder {path.parent} is not writable: give another -o")


def _unwritable(path: Path, error: OSError) -> str:
    return f"{path} cannot be written ({error.strerror or error}): give another -o"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(text: str, target: Target) -> None:
    """Write text to a file, or to stdout for None or '-'."""
    if is_pipe(target):
        sys.stdout.write(text)
        sys.stdout.flush()
    else:
        with atomic_output(Path(str(target))) as file:
            file.write(text.encode())


def check_target(target: Target) -> None:
    """Refuse, before any work is done, a terminal, or a file that cannot be written."""
    if is_pipe(target):
        refuse_terminal()
    else:
        check_writable(target)


def refuse_terminal() -> None:
    """Refuse to write a model to a terminal."""
    if sys.stdout.isatty():
        raise UsageError("a model is binary and stdout a terminal: give -o FILE or use a pipe")
