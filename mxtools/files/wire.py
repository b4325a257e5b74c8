"""Protobuf's wire format, as far as needed to read and write a model without touching its weights.

`split` takes a model's bytes apart: into a *skeleton*, a small message that protobuf can parse, and the large
`raw_data` of initializers, which stay in their place. `joined` is the exact inverse. With a model of 1 GB:

    bytes:      graph { node … initializer { dims: 16384 name: "w" raw_data: <64 KB from byte 812 on> } … }
    skeleton:   graph { node … initializer { dims: 16384 name: "w" external_data { location: "812:65536 …" }
                                             data_location: EXTERNAL } … }

The obvious way, `ModelProto.FromString(bytes)`, copies every weight and refuses more than 2 GiB. Here, a message is a
sequence of fields (number, wire type, value), and the length of a field shows where the next one begins. Source:
https://protobuf.dev/programming-guides/encoding and onnx.proto.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO, NamedTuple, TypeVar

from mxtools.files.regular import Bytes, FileBytes

MODEL_GRAPH = 7
GRAPH_INITIALIZER = 5
TENSOR_RAW_DATA = 9
TENSOR_EXTERNAL_DATA = 13
TENSOR_DATA_LOCATION = 14
MODEL_PRODUCER_NAME = 2
PRODUCER = b"\x12"
"""The key of a model's producer name."""
NO_PRODUCER = b"\x12\x00"
"""The field of an empty one."""
ANNOUNCED = b"weights come last (mxtools) "
"""Begins the first producer name of models in pipes (`files/stream.py`); the one that counts follows."""

LIMIT = 2**31 - 1
"""Bytes of the longest message that protobuf reads."""
DEFERRED_BYTES = 1024
"""Raw data of up to so many bytes stay in the skeleton, because shape inference needs them."""

REFERENCE = b"this proto lacks its weights, model.to_proto() of mxtools gives one with them"
"""Ends the location of every reference, `offset:length REFERENCE`: a library that looks for a file of that name quotes
it in its message. If the tensor said explicitly that its data are not external, `:0` follows the length."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


_HEAD = 12
"""Bytes that a key of one byte and a length can take, and one more."""


class WireError(ValueError):
    """Bytes that are not a protobuf message, or only a part of one."""


class Field(NamedTuple):
    """One field of a message: its number and wire type, and at which byte it starts, its value starts, and both end."""

    number: int
    wire_type: int
    start: int
    value: int
    end: int


@dataclass(frozen=True)
class Stretch:
    """Bytes of a file; they are read when they are written elsewhere."""

    source: Bytes
    start: int
    length: int

    def __len__(self) -> int:
        """Return the number of bytes."""
        return self.length

    def beginning(self, length: int) -> bytes | memoryview:
        """Return the first bytes, so many of them as there are."""
        return self.source[self.start : self.start + min(length, self.length)]

    def write_to(self, file: IO[bytes]) -> None:
        """Write the bytes to a file."""
        if isinstance(self.source, FileBytes):
            self.source.write_to(file, self.start, self.length)
        else:
            file.write(self.source[self.start : self.start + self.length])


Part = bytes | memoryview | Stretch


def pieces(source: Bytes, start: int, length: int) -> Iterator[bytes | memoryview]:
    """Yield a number of bytes, from a place on, piece by piece."""
    if isinstance(source, FileBytes):
        yield from source.pieces(start, length)
    else:
        yield source[start : start + length]


def fields(data: Bytes, start: int, end: int, only: int = 0) -> Iterator[Field]:
    """Yield the fields of the message at data[start:end], or `only` those of one number; WireError if there is none."""
    position, base, window = start, start, _window(data, start, end)
    while position < end:
        at = position - base
        if at + _HEAD > len(window):
            base, at, window = position, 0, _window(data, position, end)
        # nearly all fields of a graph are nodes: a key of one byte, a length, and bytes
        if at + _HEAD <= len(window) and (key := window[at]) < 0x80 and key & 7 == _BYTES:
            wire_type = _BYTES
            length, at = window[at + 1], at + 2
            if length > 0x7F:
                length, shift = length & 0x7F, 7
                while (byte := window[at]) > 0x7F and shift < 63:
                    length |= (byte & 0x7F) << shift
                    shift, at = shift + 7, at + 1
                length, at = length | byte << shift, at + 1
            value = base + at
            after = value + length
        else:
            key, value, after = _any_field(data, position, end)
            wire_type = key & 7
        if after > end or key < 8:
            raise WireError(f"field at byte {position} ends after the message, or has no number")
        if not only or key >> 3 == only:
            yield Field(key >> 3, wire_type, position, value, after)
        position = after


def _any_field(data: Bytes, position: int, end: int) -> tuple[int, int, int]:
    """Return the key of the field at a position, and where its value starts and ends."""
    key, value = read_varint(data, position, end)
    wire_type = key & 7
    if wire_type == _BYTES:
        length, value = read_varint(data, value, end)
        return key, value, value + length
    if wire_type == _VARINT:
        return key, value, read_varint(data, value, end)[1]
    if wire_type in (_FIXED64, _FIXED32):
        return key, value, value + (8 if wire_type == _FIXED64 else 4)
    raise WireError(f"wire type {wire_type} at byte {position}")


def _window(data: Bytes, at: int, end: int) -> memoryview:
    """Return bytes from a place on, as many as are at hand."""
    return data.at_hand(at) if isinstance(data, FileBytes) else data[at:end]


def read_varint(data: Bytes, position: int, end: int) -> tuple[int, int]:
    """Return the varint at a position (7 bits a byte, the lowest first), and the position after it; or WireError."""
    result = shift = 0
    while position < end and shift < 70:
        byte = data[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, position
        shift += 7
    raise WireError(f"no varint at byte {position}")


def varint(value: int) -> bytes:
    """Return a number as a varint."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


P = TypeVar("P", bound=Part)


def _message(number: int, parts: list[P]) -> list[bytes | P]:
    """Return a field with a message or bytes, from the parts of its value."""
    return [varint(number << 3 | _BYTES) + varint(sum(map(len, parts))), *parts]


def split(data: Bytes) -> tuple[bytes, int]:
    """Return the skeleton of a model, and how many tensors are references in it; WireError if `data` is not a message.

    Only the fields of the graph and of its large initializers are looked at, so the time depends on their number and
    not on their bytes. The lengths of the graph and of the changed initializers are written anew; everything else is
    copied, but no announcement.
    """
    graph, begin, end = _outline(data)
    if graph is None:
        return bytes(data[begin:end]), 0
    parts: list[bytes | memoryview] = []
    copied_to, count = graph.value, 0
    for field in fields(data, graph.value, graph.end, GRAPH_INITIALIZER):
        if field.wire_type == _BYTES and field.end - field.value > DEFERRED_BYTES:
            tensor = _deferred(data, field)
            if tensor:  # everything since the last changed tensor is copied in one piece
                parts += [data[copied_to : field.start], *_message(GRAPH_INITIALIZER, tensor)]
                copied_to, count = field.end, count + 1
    parts.append(data[copied_to : graph.end])
    return b"".join([data[begin : graph.start], *_message(MODEL_GRAPH, parts), data[graph.end : end]]), count


def joined(skeleton: bytes, source: Bytes, weights_last: bool = False) -> list[Part]:
    """Return the bytes of a model, in parts to be written one after the other.

    `source` has the bytes that the references in the skeleton point into. Stretches of it are among the parts, so no
    weight is in memory. This works even if the skeleton was changed in the meantime (renamed, cut, tagged). With
    `weights_last`, the graph comes before the model's other fields, and in it the initializers come behind the rest.
    """
    data = memoryview(skeleton)
    graph = _graph(fields(data, 0, len(data)))
    if graph is None or REFERENCE not in skeleton:
        return [data]
    parts: list[Part] = []
    initializers: list[Part] = []
    copied_to = graph.value
    for field in fields(data, graph.value, graph.end, GRAPH_INITIALIZER):
        refers = skeleton.find(REFERENCE, field.value, field.end) >= 0
        if refers or weights_last:
            parts.append(data[copied_to : field.start])
            copied_to = field.end
            tensor: list[Part] = [data[field.start : field.end]]
            if refers:
                tensor = _message(GRAPH_INITIALIZER, _restored(data, field, source))
            (initializers if weights_last else parts).extend(tensor)
    parts += [data[copied_to : graph.end], *initializers]
    before, after = data[: graph.start], data[graph.end :]
    if weights_last:
        return [*_message(MODEL_GRAPH, parts), b"".join([before, after])]
    return [before, *_message(MODEL_GRAPH, parts), after]


def merged(parts: Iterable[Part], source: Bytes) -> list[Part]:
    """Return the same bytes in fewer parts: stretches become one if their source has between them what the parts have.

    The names and dimensions of weights lie between weights, and hardly any command changes them.
    """
    found: list[Part] = []
    last: Stretch | None = None
    between: list[bytes | memoryview] = []
    for part in parts:
        if not isinstance(part, Stretch):
            between.append(part)
            continue
        end = last.start + last.length if last else 0
        if last and part.start - end == sum(map(len, between)) and source[end : part.start] == b"".join(between):
            last = Stretch(source, last.start, part.start + part.length - last.start)
        else:
            found += [last, *between] if last else between
            last = part
        between = []
    return [*found, *([last] if last else []), *between]


def _outline(data: Bytes) -> tuple[Field | None, int, int]:
    """Return a model's graph as `_graph` does, and where it begins and ends without what announces it in a pipe.

    That is its first field, and its last one if this is an empty producer name.
    """
    graphs, begin, end = list[Field](), 0, len(data)
    for field in fields(data, 0, len(data)):
        is_producer = field.number == MODEL_PRODUCER_NAME and field.wire_type == _BYTES
        if (
            is_producer
            and not field.start
            and data[field.value : min(field.end, field.value + len(ANNOUNCED))] == ANNOUNCED
        ):
            begin = field.end
        if is_producer and begin and field.value == field.end == len(data):
            end = field.start
        if field.number == MODEL_GRAPH and field.wire_type == _BYTES:
            graphs = [*graphs[:1], field]
    return (graphs[0] if len(graphs) == 1 else None), begin, end


def names_producer(skeleton: bytes) -> bool:
    """Return whether a model has a producer name, which may be empty."""
    model = fields(memoryview(skeleton), 0, len(skeleton))
    return any(field.number == MODEL_PRODUCER_NAME and field.wire_type == _BYTES for field in model)


def producer(name: bytes) -> bytes:
    """Return the field of a producer name."""
    return b"".join(_message(MODEL_PRODUCER_NAME, [name]))


def write(part: Part, file: IO[bytes]) -> None:
    """Write a part of a model."""
    if isinstance(part, Stretch):
        part.write_to(file)
    else:
        file.write(part)


def _graph(model: Iterable[Field]) -> Field | None:
    """Return a model's graph; None if it comes in several pieces, which protobuf allows but nobody writes."""
    pieces = [field for field in model if field.number == MODEL_GRAPH and field.wire_type == _BYTES]
    return pieces[0] if len(pieces) == 1 else None


def _deferred(data: Bytes, tensor: Field) -> list[bytes | memoryview] | None:
    """Return a tensor with a reference in place of its raw data, in parts; None if it must stay as it is."""
    parts: list[bytes | memoryview] = []
    raw: list[Field] = []
    explicit = b""
    for field in fields(data, tensor.value, tensor.end):
        if field.number == TENSOR_EXTERNAL_DATA or (field.number == TENSOR_DATA_LOCATION and data[field.value] != 0):
            return None
        if field.number == TENSOR_RAW_DATA:
            raw.append(field)
        elif field.number == TENSOR_DATA_LOCATION:
            explicit = b":0"
        else:
            parts.append(data[field.start : field.end])
    # If a field occurs twice, protobuf keeps the last; such tensors, and small ones, are left to protobuf.
    if len(raw) != 1 or raw[0].wire_type != _BYTES or raw[0].end - raw[0].value <= DEFERRED_BYTES:
        return None
    reference = b"%d:%d%s %s" % (raw[0].value, raw[0].end - raw[0].value, explicit, REFERENCE)
    entry = [*_message(1, [b"location"]), *_message(2, [reference])]
    return [*parts, *_message(TENSOR_EXTERNAL_DATA, entry), varint(TENSOR_DATA_LOCATION << 3), b"\x01"]


def _restored(data: memoryview, tensor: Field, source: Bytes) -> list[Part]:
    """Return a tensor with its raw data in place of the reference, in parts.

    Writers order fields by their numbers, so the raw data come before the first field with a larger number.
    """
    before: list[Part] = []
    after: list[Part] = []
    offset = length = 0
    explicit = False
    for field in fields(data, tensor.value, tensor.end):
        if field.number == TENSOR_EXTERNAL_DATA:
            offset, length, explicit = parse_reference(_location(data, field))
        elif field.number == TENSOR_DATA_LOCATION:
            after += [varint(TENSOR_DATA_LOCATION << 3), b"\x00"] if explicit else []
        else:
            (before if field.number < TENSOR_RAW_DATA else after).append(data[field.start : field.end])
    return [*before, *_message(TENSOR_RAW_DATA, [Stretch(source, offset, length)]), *after]


def _location(data: memoryview, entry: Field) -> str:
    """Return the value of an entry of external data."""
    value = next(field for field in fields(data, entry.value, entry.end) if field.number == 2)
    return bytes(data[value.value : value.end]).decode()


def parse_reference(text: str) -> tuple[int, int, bool]:
    """Return a reference's offset and length in bytes, and whether the tensor said that its data are not external."""
    offset, length, *explicit = text.partition(" ")[0].split(":")
    return int(offset), int(length), bool(explicit)
