"""The element types of tensors: which exist, how many bytes their elements take, and which field has them.

And the types of attributes that have no tensors in them.
"""

from __future__ import annotations

import re
from functools import cache

from onnx import AttributeProto, TensorProto

ELEMENTS = frozenset(TensorProto.DataType.values()) - {TensorProto.UNDEFINED}
"""The element types that ONNX has."""

PLAIN = frozenset(
    {
        AttributeProto.FLOAT,
        AttributeProto.INT,
        AttributeProto.STRING,
        AttributeProto.FLOATS,
        AttributeProto.INTS,
        AttributeProto.STRINGS,
    }
)
"""The types of attributes that hold nothing but numbers and texts."""

_BITS = {"FLOAT": 32, "DOUBLE": 64, "BOOL": 8, "STRING": 0, "UNDEFINED": 0}
"""Bits of an element, by the name of its type, if the name does not contain them as `BFLOAT16` and `FLOAT8E4M3FN` do.

A tensor without a type has no elements: it lies in a field of an attribute that its type does not use.
"""

_FIELDS: dict[int, tuple[str, int]] = {
    TensorProto.FLOAT: ("float_data", 1),
    TensorProto.COMPLEX64: ("float_data", 2),
    TensorProto.DOUBLE: ("double_data", 1),
    TensorProto.COMPLEX128: ("double_data", 2),
    TensorProto.INT64: ("int64_data", 1),
    TensorProto.UINT32: ("uint64_data", 1),
    TensorProto.UINT64: ("uint64_data", 1),
    TensorProto.STRING: ("string_data", 1),
}
"""The field with the elements of a type, and how many entries each takes; for other types it is int32_data."""


@cache
def bits_of(element: int) -> int:
    """Return how many bits an element of a type takes in raw data; 0 for texts, which have no fixed size."""
    name = TensorProto.DataType.Name(element)
    return _BITS[name] if name in _BITS else int(re.findall(r"\d+", name)[0])


def size_of_elements(element: int, count: int) -> int:
    """Return how many bytes so many elements of a type take; the last byte may not be full."""
    return -(-count * bits_of(element) // 8)


def entries_of(tensor: TensorProto, count: int) -> tuple[int, int]:
    """Return how many entries a tensor without raw data has in the field of its type, and how many it should have."""
    field, each = _FIELDS.get(tensor.data_type, ("int32_data", 1))
    bits = bits_of(tensor.data_type)
    wanted = count * each if bits >= 8 or not bits else size_of_elements(tensor.data_type, count)
    return len(getattr(tensor, field)), wanted
