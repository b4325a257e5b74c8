"""Sizes for the symbolic dimensions of a model, so that the shapes of its values are known."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from onnx import ModelProto, TensorShapeProto, TypeProto, ValueInfoProto

from mxtools.errors import UsageError, suggestion
from mxtools.graph.types import size_of

LARGEST = 1 << 40
"""No dimension is larger: with a few of them even the number of elements fits into no memory."""


def sizes_of(texts: Iterable[str]) -> dict[str, int]:
    """Return sizes by the names of dimensions, of texts such as `batch=8`."""
    found = {}
    for text in texts:
        name, equals, size = text.rpartition("=")
        if not (name and equals and size.isascii() and size.isdecimal()) or len(size) > len(str(LARGEST)):
            raise UsageError(f"{text!r} is not NAME=SIZE", "write batch=8")
        found[name] = int(size)
    return found


def symbols(model: ModelProto) -> list[str]:
    """Return the names of the symbolic dimensions of a model's inputs, in their order."""
    return list(dict.fromkeys(dim.dim_param for info in model.graph.input for dim in _dims(info) if dim.dim_param))


def sizes_in(types: Mapping[str, TypeProto], shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Return the sizes of symbolic dimensions in some inputs, given by types and shapes; of two the first counts."""
    found: dict[str, int] = {}
    for name, shape in shapes.items():
        dims = types[name].tensor_type.shape.dim
        for dim, size in zip(dims, shape, strict=True) if len(dims) == len(shape) else ():
            if dim.dim_param:
                found.setdefault(dim.dim_param, size)
    return found


def dimension(name: str, sizes: Mapping[str, int], other: int | None = None) -> int | None:
    """Return the size of a symbolic dimension: its own, or what its parts come to, as of `past + new` or `2*n`.

    `other` is that of names without a size, and of what is no sum of products.
    """
    if name in sizes:
        return sizes[name]
    total = 0
    for term in name.split("+"):
        product = 1
        for part in map(str.strip, term.split("*")):
            is_number = part.isascii() and part.isdecimal() and len(part) <= len(str(LARGEST))
            size = int(part) if is_number else sizes.get(part, other if part.isidentifier() else None)
            if size is None:
                return other
            product *= size
        total += product
    return total if total <= LARGEST else other


def bound(model: ModelProto, sizes: Mapping[str, int], other: int | None = None) -> ModelProto:
    """Return a copy of a model whose symbolic dimensions have sizes; `other` is that of the unknown ones of inputs.

    What the file says of values whose shapes still are not known is left out, so that they are inferred. Raises
    UsageError if the model has no dimension of a name, or a size is negative.
    """
    negative = next((name for name, size in sizes.items() if size < 0), None)
    if negative is not None:
        raise UsageError(f"the dimension {negative!r} cannot have the size {sizes[negative]}", "give 0 or more")
    infos = (*model.graph.input, *model.graph.output, *model.graph.value_info)
    told = {dim.dim_param for info in infos for dim in _dims(info)} - {""}
    known = told | {part.strip() for name in told for part in re.split(r"[+*]", name)}
    unknown = next((name for name in sizes if name not in known), None)
    if unknown is not None:
        raise UsageError(f"the model has no dimension {unknown!r}", suggestion(unknown, known))
    copy = ModelProto()
    copy.CopyFrom(model)
    for info in copy.graph.input:
        _bind(info, sizes, other)
    for info in (*copy.graph.output, *copy.graph.value_info):
        _bind(info, sizes, None)
        if any(size_of(dim) is None for dim in _dims(info)):
            info.type.tensor_type.ClearField("shape")
    return copy


def _bind(info: ValueInfoProto, sizes: Mapping[str, int], other: int | None) -> None:
    for dim in _dims(info):
        size = size_of(dim)
        size = dimension(dim.dim_param, sizes, other) if size is None else size
        if size is not None:
            dim.dim_value = size


def _dims(info: ValueInfoProto) -> Iterator[TensorShapeProto.Dimension]:
    yield from info.type.tensor_type.shape.dim
