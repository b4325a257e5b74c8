"""What goes into a session of ONNX Runtime and comes out of it, as values of numpy's own types.

ONNX has element types that numpy lacks: bfloat16, float8, float4, integers of 4 and 2 bits. ONNX Runtime neither gives
nor takes arrays of these. Here they go in and come out as arrays of a wider type of numpy, which can hold each of their
values, so code that compares values needs to know nothing about them:

    bfloat16, float8, float4    float32
    int4, int2; uint4, uint2    int8; uint8

Sequences are lists, maps are dicts, and an optional value that is absent is None.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, TypeAlias

import onnx
from onnx import TensorProto

from mxtools.errors import InputError
from mxtools.graph.shapes import Array
from mxtools.graph.types import plain, plain_dtype

Value: TypeAlias = Any
"""An array, a list of values, a dict, or None."""

_TENSOR = re.compile(r"tensor\((\w+)\)")


@cache
def onnx_runtime() -> Any:  # noqa: ANN401 - an untyped library
    """Import ONNX Runtime and return it; its telemetry, which some builds have, is switched off before any session."""
    import onnxruntime

    if hasattr(onnxruntime, "disable_telemetry_events"):
        onnxruntime.disable_telemetry_events()
    return onnxruntime


def element_type(type_: str) -> int | None:
    """Return the element type of a tensor from its type in ONNX Runtime's form, `tensor(float)`; else None."""
    found = _TENSOR.fullmatch(type_)
    return TensorProto.DataType.Value(found[1].upper()) if found else None


def run_session(session: Any, names: Sequence[str], given: Mapping[str, Value]) -> list[Value]:  # noqa: ANN401 - untyped
    """Run a session of ONNX Runtime on a model's inputs, by name; return some outputs, in the order of their names.

    Raises InputError if an input is missing (unless it is optional), or has a value of another type.
    """
    wanted = {value.name: value.type for value in session.get_inputs()}
    wanted |= {v.name: v.type for v in session.get_overridable_initializers() if v.name in given}
    missing = next((n for n, type_ in wanted.items() if n not in given and not type_.startswith("optional")), None)
    if missing is not None:
        raise InputError(f"no value for the graph's input {missing!r}", "give ⟨inputs⟩ with the model's inputs")
    feeds = {name: _fed(name, given.get(name), element_type(type_)) for name, type_ in wanted.items()}
    types = {value.name: element_type(value.type) for value in session.get_outputs()}
    if not any(is_narrow(types.get(name)) for name in names):
        return list(session.run(list(names), feeds))
    tensors = [name for name in names if types.get(name) is not None]
    found = dict(zip(tensors, _tensors(session, tensors, feeds), strict=True))
    others = [name for name in names if name not in found]
    found |= dict(zip(others, session.run(others, feeds), strict=True)) if others else {}
    return [found[name] for name in names]


def is_narrow(element: int | None) -> bool:
    """Return whether numpy lacks an element type."""
    return element is not None and onnx.helper.tensor_dtype_to_np_dtype(element) != plain_dtype(element)


def _fed(name: str, value: Value, element: int | None) -> Value:
    """Return an input in ONNX Runtime's form: an array, also of what numpy can read as one, such as a tensor of torch.

    If numpy lacks the element type, it is ONNX Runtime's own kind of value.
    """
    import ctypes

    import numpy as np

    if element is None or isinstance(value, onnx_runtime().OrtValue):
        return value
    array, dtype = np.asarray(value), np.dtype(onnx.helper.tensor_dtype_to_np_dtype(element))
    if not is_narrow(element):
        return array
    if array.dtype.kind == "V" and array.dtype.itemsize == dtype.itemsize:
        array = array.view(dtype)  # .npz files have such arrays, but do not say the type
    try:
        data = onnx.numpy_helper.from_array(array.astype(dtype)).raw_data
    except (TypeError, ValueError) as error:
        raise InputError(
            f"the graph's input {name!r} has the type {dtype}, but its value has another ({error})"
        ) from None
    made = onnx_runtime().OrtValue.ortvalue_from_shape_and_type(list(array.shape), element)
    ctypes.memmove(made.data_ptr(), data, len(data))
    return made


def _tensors(session: Any, names: Sequence[str], feeds: Mapping[str, Value]) -> list[Array]:  # noqa: ANN401
    """Return outputs that are tensors, of any element type."""
    import numpy as np

    own = onnx_runtime().OrtValue
    if odd := next((name for name, value in feeds.items() if not isinstance(value, np.ndarray | own)), None):
        raise InputError(
            f"ONNX Runtime cannot return {names[0]!r} of a model whose input {odd!r} is not a tensor",
            "cut out a part without that input",
        )
    values = {n: own.ortvalue_from_numpy(v) if isinstance(v, np.ndarray) else v for n, v in feeds.items()}
    return [_array(value) for value in session.run_with_ort_values(list(names), values)]


def _array(value: Any) -> Array:  # noqa: ANN401 - ONNX Runtime's OrtValue
    """Return a tensor of ONNX Runtime as an array of a numpy type."""
    import ctypes

    import numpy as np

    element = value.element_type()
    if not is_narrow(element):
        return np.asarray(value.numpy())
    if value.device_name().lower() != "cpu":
        raise InputError(f"a value of type {value.data_type()} is on {value.device_name()}", "run it on the CPU")
    tensor = onnx.numpy_helper.from_array(np.zeros(value.shape(), onnx.helper.tensor_dtype_to_np_dtype(element)))
    if tensor.raw_data:  # packed as in ONNX Runtime: two integers of 4 bits in a byte
        tensor.raw_data = ctypes.string_at(value.data_ptr(), len(tensor.raw_data))
    return plain(onnx.numpy_helper.to_array(tensor))
