"""The types of values, from stored tensors and as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx
from onnx import SparseTensorProto, TensorProto, TensorShapeProto, TypeProto

from mxtools.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_ADDED_BY_OTHERS = 2
"""What numpy's `dtype.isbuiltin` says about a type that another library registered: bfloat16, int4 …"""

_USUAL = {"float": "float32", "double": "float64"}
"""What everybody except ONNX calls these two element types."""
ELEMENT_TYPES = {_USUAL.get(name.lower(), name.lower()): value for name, value in TensorProto.DataType.items() if value}
"""The element types by the names that people use: `float32`, `bfloat16`, `int4` …"""


def type_of(tensor: TensorProto | SparseTensorProto) -> TypeProto:
    """Return the type of a tensor: its element type and its dimensions."""
    type_ = TypeProto()
    type_.tensor_type.elem_type = (tensor if isinstance(tensor, TensorProto) else tensor.values).data_type
    type_.tensor_type.shape.SetInParent()  # a scalar has a shape without dimensions, which is not the same as no shape
    for dim in tensor.dims:
        type_.tensor_type.shape.dim.add(dim_value=dim)
    return type_


def type_text(type_: TypeProto, usual: bool = False) -> str:
    """Return a type as ONNX's text format writes it, `float[N,4]`; for other types than tensors, just the kind.

    With `usual`, it is as people write it, `float32[N, 4]`, and a name that ONNX's inference made up for a dimension
    becomes `?`.
    """
    if not type_.HasField("tensor_type"):
        return str(type_.WhichOneof("value") or "of no type").removesuffix("_type")
    tensor = type_.tensor_type
    name = str(TensorProto.DataType.Name(tensor.elem_type)).lower()
    dims = (_dimension_text(dim, usual) for dim in tensor.shape.dim)
    shape = f"[{(', ' if usual else ',').join(dims)}]" if tensor.HasField("shape") else ""
    return f"{_USUAL.get(name, name) if usual else name}{shape}"


def _dimension_text(dim: TensorShapeProto.Dimension, usual: bool) -> str:
    size = size_of(dim)
    if size is not None:
        return str(size)
    is_made_up = usual and dim.dim_param.startswith("unk__")
    return "?" if is_made_up else dim.dim_param or "?"


def is_quantised(element: int) -> bool:
    """Return whether elements are integers of 8 bits or less, which stand for the numbers of a quantised model."""
    name = TensorProto.DataType.Name(element)
    return name.removeprefix("U") in ("INT8", "INT4", "INT2")


def size_of(dim: TensorShapeProto.Dimension) -> int | None:
    """Return the size of a dimension, None if it is unknown (some exporters write -1 for that)."""
    return dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else None


def types_fit(one: TypeProto, other: TypeProto) -> bool:
    """Return whether a value can have both types: neither contradicts the other's kind, elements or dimensions."""
    kinds = {kind for kind in (one.WhichOneof("value"), other.WhichOneof("value")) if kind}
    if kinds != {"tensor_type"}:
        return len(kinds) < 2
    a, b = one.tensor_type, other.tensor_type
    if a.elem_type and b.elem_type and a.elem_type != b.elem_type:
        return False
    if not (a.HasField("shape") and b.HasField("shape")):
        return True
    return len(a.shape.dim) == len(b.shape.dim) and all(
        size_of(p) == size_of(q)
        for p, q in zip(a.shape.dim, b.shape.dim, strict=True)
        if None not in (size_of(p), size_of(q))
    )


def plain_dtype(element: int) -> np.dtype[Any]:
    """Return numpy's own type that can hold all values of an element type: float32 for bfloat16, int8 for int4."""
    import numpy as np

    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(element))
    return dtype if _is_own(dtype) else _wider(dtype)


def plain(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return an array in a type of numpy's own: bfloat16 becomes float32, int4 becomes int8."""
    return array if _is_own(array.dtype) else array.astype(_wider(array.dtype))


def as_type(value: Any, type_: TypeProto) -> Any:  # noqa: ANN401 - what a graph can take: arrays, lists, dicts
    """Return a value in a graph's type: an array with its element type; a sequence as a list of such items."""
    import numpy as np

    kind = type_.WhichOneof("value")
    if kind == "optional_type":
        return None if value is None else as_type(value, type_.optional_type.elem_type)
    if kind == "sequence_type":
        return [as_type(element, type_.sequence_type.elem_type) for element in value]
    if kind != "tensor_type" or type_.tensor_type.elem_type == TensorProto.UNDEFINED:
        return value
    array = plain(np.asarray(value))
    # numpy's own kind V is bytes of an unknown type; a .npz file has bfloat16 in this form
    dtype = plain_dtype(type_.tensor_type.elem_type)
    try:
        return array if array.dtype.kind == "V" else array.astype(dtype, copy=False)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"a value of type {array.dtype} cannot be converted to {dtype} ({error})", "give others"
        ) from None


def _is_own(dtype: np.dtype[Any]) -> bool:
    """Return whether a type is numpy's own; types that others add to numpy have other names."""
    return dtype.isbuiltin != _ADDED_BY_OTHERS


def _wider(dtype: np.dtype[Any]) -> np.dtype[Any]:
    import numpy as np

    return np.dtype("uint8" if dtype.name.startswith("uint") else "int8" if dtype.name.startswith("int") else "float32")
