"""Protobuf's wire format, as far as it takes to read and write a model around its weights.

A model's bytes are split into a *skeleton*, in which the large `raw_data` of initializers are replaced by references to
where they lie, and those bytes, which are never copied. `joined` is the exact inverse of `split`.
Source: https://protobuf.dev/programming-guides/encoding and onnx.proto.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

MODEL_GRAPH = 7
GRAPH_INITIALIZER = 5
TENSOR_RAW_DATA = 9
TENSOR_EXTERNAL_DATA = 13
TENSOR_DATA_LOCATION = 14

DEFERRED_BYTES = 1024
"""Raw data of at most so many bytes stays in the skeleton, where shape inference can see it."""

REFERENCE = b"this proto lacks its weights, model.to_proto() of mxtools gives one with them"
"""Ends the location that stands for deferred bytes, `offset:length REFERENCE`, with `:0` behind the length where the
tensor said explicitly that its data are not external. A library that looks for a file of that name quotes it."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class WireError(ValueError):
    """Bytes that are no protobuf message, or not all of one."""


@dataclass(frozen=True)
class Field:
    """One field of a message: its number and where it begins, its value begins, and both end."""

    number: int
    kind: int
    start: int
    value: int
    end: int


def fields(data: memoryview, start: int, end: int) -> Iterator[Field]:
    """Give the fields of the message at data[start:end]; WireError where it is none."""
    at = start
    while at < end:
        key, value = _varint(data, at, end)
        kind = key & 7
        if kind == _BYTES:
            length, value = _varint(data, value, end)
            after = value + length
        elif kind == _VARINT:
            after = _varint(data, value, end)[1]
        elif kind in (_FIXED64, _FIXED32):
            after = value + (8 if kind == _FIXED64 else 4)
        else:
            raise WireError(f"wire type {kind} at byte {at}")
        if after > end:
            raise WireError(f"field at byte {at} ends after the message")
        yield Field(key >> 3, kind, at, value, after)
        at = after


def _varint(data: memoryview, at: int, end: int) -> tuple[int, int]:
    """Read a varint; give it and where the next byte is."""
    result = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, at
        shift += 7
    raise WireError(f"no varint at byte {at}")


def varint(value: int) -> bytes:
    """Write a varint."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _message(number: int, parts: list[bytes | memoryview]) -> list[bytes | memoryview]:
    """Give a length-delimited field from the parts of its value."""
    return [varint(number << 3 | _BYTES) + varint(sum(map(len, parts))), *parts]


def split(data: memoryview) -> tuple[bytes, int]:
    """Give the skeleton of a model and how many tensors are deferred in it; WireError where the bytes are no model."""
    graph = _graph(data)
    if graph is None:
        return bytes(data), 0
    parts: list[bytes | memoryview] = []
    kept, count = graph.value, 0
    for field in fields(data, graph.value, graph.end):
        if field.number == GRAPH_INITIALIZER and field.kind == _BYTES and field.end - field.value > DEFERRED_BYTES:
            tensor = _deferred(data, field)
            if tensor:
                parts += [data[kept : field.start], *_message(GRAPH_INITIALIZER, tensor)]
                kept, count = field.end, count + 1
    parts.append(data[kept : graph.end])
    return b"".join([data[: graph.start], *_message(MODEL_GRAPH, parts), data[graph.end :]]), count


def joined(skeleton: bytes, source: memoryview) -> list[bytes | memoryview]:
    """Give the bytes of a model, in parts, from its skeleton and the bytes that the references point into."""
    data = memoryview(skeleton)
    graph = _graph(data)
    if graph is None or REFERENCE not in skeleton:
        return [data]
    parts: list[bytes | memoryview] = []
    kept = graph.value
    for field in fields(data, graph.value, graph.end):
        if field.number == GRAPH_INITIALIZER and skeleton.find(REFERENCE, field.value, field.end) >= 0:
            parts += [data[kept : field.start], *_message(GRAPH_INITIALIZER, _restored(data, field, source))]
            kept = field.end
    parts.append(data[kept : graph.end])
    return [data[: graph.start], *_message(MODEL_GRAPH, parts), data[graph.end :]]


def _graph(data: memoryview) -> Field | None:
    """Find the graph of a model; None where it is not in one piece, which protobuf allows and nobody writes."""
    found = [field for field in fields(data, 0, len(data)) if field.number == MODEL_GRAPH and field.kind == _BYTES]
    return found[0] if len(found) == 1 else None


def _deferred(data: memoryview, tensor: Field) -> list[bytes | memoryview] | None:
    """Give a tensor with a reference in place of its raw data, None where it is to stay as it is."""
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
    if len(raw) != 1 or raw[0].kind != _BYTES or raw[0].end - raw[0].value <= DEFERRED_BYTES:
        return None
    reference = b"%d:%d%s %s" % (raw[0].value, raw[0].end - raw[0].value, explicit, REFERENCE)
    entry = [*_message(1, [b"location"]), *_message(2, [reference])]
    return [*parts, *_message(TENSOR_EXTERNAL_DATA, entry), varint(TENSOR_DATA_LOCATION << 3), b"\x01"]


def _restored(data: memoryview, tensor: Field, source: memoryview) -> list[bytes | memoryview]:
    """Give a tensor with its raw data in place of the reference; fields are in the order of their numbers."""
    before: list[bytes | memoryview] = []
    after: list[bytes | memoryview] = []
    offset = length = 0
    explicit = False
    for field in fields(data, tensor.value, tensor.end):
        if field.number == TENSOR_EXTERNAL_DATA:
            offset, length, explicit = parse_reference(_location(data, field))
        elif field.number == TENSOR_DATA_LOCATION:
            after += [varint(TENSOR_DATA_LOCATION << 3), b"\x00"] if explicit else []
        else:
            (before if field.number < TENSOR_RAW_DATA else after).append(data[field.start : field.end])
    return [*before, *_message(TENSOR_RAW_DATA, [source[offset : offset + length]]), *after]


def _location(data: memoryview, entry: Field) -> str:
    """Return the value of an entry of external data."""
    value = next(field for field in fields(data, entry.value, entry.end) if field.number == 2)
    return bytes(data[value.value : value.end]).decode()


def parse_reference(text: str) -> tuple[int, int, bool]:
    """Read a reference: offset, length, and whether the tensor said that its data are not external."""
    offset, length, *explicit = text.partition(" ")[0].split(":")
    return int(offset), int(length), bool(explicit)
