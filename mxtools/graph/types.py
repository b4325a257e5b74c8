"""The types of values: of tensors as they are stored, and as text."""

from __future__ import annotations

from onnx import TensorProto, TypeProto


def type_of(tensor: TensorProto) -> TypeProto:
    """Give the type of a tensor."""
    found = TypeProto()
    found.tensor_type.elem_type = tensor.data_type
    found.tensor_type.shape.SetInParent()
    for dim in tensor.dims:
        found.tensor_type.shape.dim.add(dim_value=dim)
    return found


def type_text(type_: TypeProto) -> str:
    """Give a type as ONNX's text format writes it: float[N,4]."""
    if not type_.HasField("tensor_type"):
        return str(type_.WhichOneof("value") or "of no type").removesuffix("_type")
    tensor = type_.tensor_type
    dims = (str(d.dim_value) if d.HasField("dim_value") else d.dim_param or "?" for d in tensor.shape.dim)
    shape = f"[{','.join(dims)}]" if tensor.HasField("shape") else ""
    return f"{TensorProto.DataType.Name(tensor.elem_type).lower()}{shape}"
