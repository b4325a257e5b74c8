"""Types and shapes of the tensors of a graph, from the file where it has them, else inferred."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, TensorProto, TypeProto, ValueInfoProto

from mxtools.graph.index import bodies
from mxtools.graph.operators import Operators

Array = npt.NDArray[Any]


class TorchTensor(Protocol):
    """What is compared of a traced tensor: its shape, and its dtype by torch's name."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its dimensions."""

    @property
    def dtype(self) -> str:
        """Torch's name of its element type, without the prefix: `float32`."""


@dataclass(frozen=True)
class Shaped:
    """What is known of a tensor: kind of its elements ('f', 'i', 'b' …) and its dimensions, None where unknown."""

    kind: str
    dims: tuple[int | None, ...] | None

    @property
    def count(self) -> int | None:
        """The number of elements, None where unknown."""
        if self.dims is None:
            return None
        known = [d for d in self.dims if d is not None]
        return math.prod(known) if len(known) == len(self.dims) else None

    def fits(self, tensor: TorchTensor) -> bool:
        """Tell whether this can be a traced tensor, up to a reshape that keeps the order of its elements."""
        if self.kind != torch_kind(tensor.dtype):
            return False
        if self.dims is None or self.dims == tensor.shape:
            return True
        if self.is_transposed(tensor):
            return False
        known, count = math.prod(d for d in self.dims if d is not None), math.prod(tensor.shape)
        return known == count if None not in self.dims else known == 0 or count % known == 0

    def agrees(self, tensor: TorchTensor) -> bool:
        """Tell whether this can have the dimensions of a traced tensor, in their order."""
        if self.kind != torch_kind(tensor.dtype) or self.dims is None or len(self.dims) != len(tensor.shape):
            return False
        return all(mine in (None, its) for mine, its in zip(self.dims, tensor.shape, strict=True))

    def is_transposed(self, tensor: TorchTensor) -> bool:
        """Tell whether this has the dimensions of a traced tensor in another order, and so its elements too."""
        if self.dims is None or None in self.dims:
            return False
        mine, its = ([d for d in dims if d != 1] for dims in (self.dims, tensor.shape))
        return mine != its and sorted(mine, key=str) == sorted(its, key=str)


class Shapes:
    """What is known of the shapes of values, by number; no more is inferred than it takes to know what is asked for."""

    def __init__(self, model: ModelProto, names: Sequence[str]) -> None:
        """Take a model and the names of its values."""
        self._model, self._names = model, names
        self._said = value_infos(model)
        self._inferred: dict[str, ValueInfoProto] = {}
        self._left = [True, False]
        self._known: dict[int, Shaped | None] = {}

    def __getitem__(self, value: int) -> Shaped | None:
        """Give kind and dimensions of a value, None where it is no tensor or unknown."""
        if value not in self._known:
            self._known[value] = self._find(self._names[value])
        return self._known[value]

    def _find(self, name: str) -> Shaped | None:
        """Look into the file, then into what is inferred, without propagation and then with it."""
        if is_shaped(self._said.get(name)):
            return shaped(self._said[name])
        found = shaped(self._inferred.get(name))
        while self._left and (found is None or found.count is None):
            self._inferred = inferred_infos(self._model, propagating=self._left.pop())
            found = shaped(self._inferred.get(name))
        return found


def value_infos(model: ModelProto) -> dict[str, ValueInfoProto]:
    """Give what the file says of its main graph's tensors, by name."""
    return {info.name: info for info in (*model.graph.value_info, *model.graph.output, *model.graph.input)}


def inferred_infos(model: ModelProto, propagating: bool = True) -> dict[str, ValueInfoProto]:
    """Give what the file says and what can be inferred of its main graph's tensors, by name; the file goes first.

    Shapes that are computed in the graph are followed where `propagating`, which takes half as long again.

    Some have a type without a shape: those of which the rank is known to nobody.
    """
    said, data = value_infos(model), model.SerializeToString()
    carried = [info for info in _carried(model) if info.name not in said] if b"Loop" in data else []
    if carried:
        copy = ModelProto.FromString(data)
        copy.graph.value_info.extend(carried)
        data = copy.SerializeToString()
    try:
        found = value_infos(onnx.shape_inference.infer_shapes(data, data_prop=propagating))
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError):
        found = {}
    return {**said, **found, **{name: info for name, info in said.items() if is_shaped(info)}}


def _carried(model: ModelProto) -> Iterator[ValueInfoProto]:
    """Give the types of what Loops carry where their bodies say that no step changes it: ONNX infers no rank there."""
    operators = Operators(model)
    for node in model.graph.node:
        if operators.of(node).onnx_name == "Loop":
            for body in bodies(node):
                for name, before, after in zip(node.output, body.input[2:], body.output[1:], strict=False):
                    if name and is_shaped(after) and before.type == after.type:
                        yield ValueInfoProto(name=name, type=after.type)


def is_typed(info: ValueInfoProto | None) -> bool:
    """Tell whether a value info has a type, for a tensor that of its elements."""
    if info is None or info.type.WhichOneof("value") is None:
        return False
    return not info.type.HasField("tensor_type") or info.type.tensor_type.elem_type != TensorProto.UNDEFINED


def is_shaped(info: ValueInfoProto | None) -> bool:
    """Tell whether a value info has a type, for a tensor with a shape."""
    return (
        info is not None
        and is_typed(info)
        and info.type.tensor_type.HasField("shape") == info.type.HasField("tensor_type")
    )


def shaped(info: ValueInfoProto | None) -> Shaped | None:
    """Give kind and dimensions of a tensor, None for what is no tensor or unknown."""
    return None if info is None else _shaped(info.type.SerializeToString())


@lru_cache(1024)
def _shaped(type_: bytes) -> Shaped | None:
    """Read a type; there are few, so each is read once."""
    tensor = TypeProto.FromString(type_).tensor_type
    if not tensor.elem_type:
        return None
    dims = (
        tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)
        if tensor.HasField("shape")
        else None
    )
    return Shaped(_kind(tensor.elem_type), dims)


def of_tensor(tensor: TensorProto) -> Shaped:
    """Give kind and dimensions of a stored tensor."""
    return Shaped(_kind(tensor.data_type), tuple(tensor.dims))


def _kind(element: int) -> str:
    kind = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(element)).kind
    return "i" if kind == "u" else kind.replace("V", "f")


@cache
def torch_kind(dtype: str) -> str:
    """Give the kind of elements of a torch dtype, given by name: 'f', 'i', 'b' or 'c'."""
    return (
        "b"
        if dtype == "bool"
        else "c"
        if dtype.startswith("complex")
        else "i"
        if "int" in dtype and "float" not in dtype
        else "f"
    )
