"""The types of values, from stored tensors and as text."""

from __future__ import annotations

from onnx import SparseTensorProto, TensorProto, TensorShapeProto, TypeProto

_USUAL = {"float": "float32", "double": "float64"}
"""What everybody but ONNX calls two of the element types."""


def type_of(tensor: TensorProto | SparseTensorProto) -> TypeProto:
    """Return the type of a tensor: its element type and its dimensions."""
    type_ = TypeProto()
    type_.tensor_type.elem_type = (tensor if isinstance(tensor, TensorProto) else tensor.values).data_type
    type_.tensor_type.shape.SetInParent()  # a scalar has a shape without dimensions, which is not the same as no shape
    for dim in tensor.dims:
        type_.tensor_type.shape.dim.add(dim_value=dim)
    return type_


def type_text(type_: TypeProto, usual: bool = False) -> str:
    """Return a type as ONNX's text format writes it, `float[N,4]`; of types other than tensors, just the kind.

    With `usual` it is as people write it, `float32[N, 4]`, and names of dimensions that ONNX's inference made up are
    unknown ones, `?`.
    """
    if not type_.HasField("tensor_type"):
        return str(type_.WhichOneof("value") or "of no type").removesuffix("_type")
    tensor = type_.tensor_type
    name = str(TensorProto.DataType.Name(tensor.elem_type)).lower()
    dims = (_dimension_text(dim, usual) for dim in tensor.shape.dim)
    shape = f"[{(', ' if usual else ',').join(dims)}]" if tensor.HasField("shape") else ""
    return f"{_USUAL.get(name, name) if usual else name}{shape}"


def _dimension_text(dim: TensorShapeProto.Dimension, usual: bool) -> str:
    if dim.HasField("dim_value"):
        return str(dim.dim_value)
    is_made_up = usual and dim.dim_param.startswith("unk__")
    return "?" if is_made_up else dim.dim_param or "?"
