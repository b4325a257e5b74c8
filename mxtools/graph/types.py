"""The types of values, from stored tensors and as text."""

from __future__ import annotations

from onnx import TensorProto, TypeProto


def type_of(tensor: TensorProto) -> TypeProto:
    """Return the type of a tensor: its element type and its dimensions."""
    type_ = TypeProto()
    type_.tensor_type.elem_type = tensor.data_type
    type_.tensor_type.shape.SetInParent()  # a scalar has a shape without dimensions, which is not the same as no shape
    for dim in tensor.dims:
        type_.tensor_type.shape.dim.add(dim_value=dim)
    return type_


def type_text(type_: TypeProto) -> str:
    """Return a type as ONNX's text format writes it, `float[N,4]`; of types other than tensors, just the kind."""
    if not type_.HasField("tensor_type"):
        return str(type_.WhichOneof("value") or "of no type").removesuffix("_type")
    tensor = type_.tensor_type
    dims = (str(d.dim_value) if d.HasField("dim_value") else d.dim_param or "?" for d in tensor.shape.dim)
    shape = f"[{','.join(dims)}]" if tensor.HasField("shape") else ""
    return f"{TensorProto.DataType.Name(tensor.elem_type).lower()}{shape}"
