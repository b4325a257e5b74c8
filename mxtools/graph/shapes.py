"""Types and shapes of the tensors of a graph: from the file if it has them, else inferred."""

from __future__ import annotations

import itertools
import math
import operator
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto

from mxtools.files.elements import size_of_elements
from mxtools.files.limits import INFERENCE
from mxtools.graph.index import bodies, graph_inputs
from mxtools.graph.operators import BLOCK_PRODUCT, Operators, plain_domain, sizes_of_block_product, versions
from mxtools.graph.types import is_quantised, size_of, type_of

if TYPE_CHECKING:
    import numpy.typing as npt

Array: TypeAlias = "npt.NDArray[Any]"

MOST_REFUSED = 16
"""How many nodes that stop inference are looked for: a file with more is beyond help, and each takes a few runs."""


class TorchTensor(Protocol):
    """The attributes of a traced tensor that are compared."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its dimensions."""

    @property
    def dtype(self) -> str:
        """Its element type by torch's name, without the prefix: `float32`."""


@dataclass(frozen=True)
class TensorShape:
    """What is known of a tensor's shape.

    Attributes: `kind`, that of its elements, 'f', 'i' (unsigned integers too), 'b' or 'c'; `dims`, its dimensions, with
    None for each unknown one, or None if not even their number is known; `element`, the type of its elements.
    """

    kind: str
    dims: tuple[int | None, ...] | None
    element: int = field(default=TensorProto.UNDEFINED, compare=False)

    @property
    def count(self) -> int | None:
        """The number of elements, None if unknown."""
        if self.dims is None:
            return None
        known = [d for d in self.dims if d is not None]
        return math.prod(known) if len(known) == len(self.dims) else None

    @property
    def bytes(self) -> int | None:
        """The bytes of the elements, None if their number is unknown."""
        return None if self.count is None else size_of_elements(self.element, self.count)

    @property
    def in_floats(self) -> TensorShape:
        """The same with floats as elements if they are quantised numbers, which stand for floats."""
        return replace(self, kind="f") if is_quantised(self.element) else self

    def fits(self, tensor: TorchTensor) -> bool:
        """Return whether this can be a traced tensor, perhaps reshaped, but with its elements in the same order.

        A transposed tensor does not fit: `[2, 3]` fits a traced `[6]` or `[2, 3, 1]`, but not `[3, 2]`. If dimensions
        are unknown, a reshaped tensor has another number of them: `[n, 3]` fits `[6]`, but not `[3, 2]`. Nor does
        `[n, m, 16, 16]` fit `[1, 16, 32]`: no reshape that merges or splits dimensions leads there.
        """
        if self.kind != torch_kind(tensor.dtype):
            return False
        if self.dims is None or self.dims == tensor.shape:
            return True
        if self.is_transposed(tensor):
            return False
        if None in self.dims and len(self.dims) == len(tensor.shape):
            return self.agrees(tensor)
        # Unknown dimensions can be anything, so the known ones must divide the number of elements.
        known, count = math.prod(d for d in self.dims if d is not None), math.prod(tensor.shape)
        if None not in self.dims:
            return known == count
        return known == 0 or (count % known == 0 and _is_merged_or_split(self.dims, tensor.shape))

    def agrees(self, tensor: TorchTensor) -> bool:
        """Return whether this can have the dimensions of a traced tensor, in their order; unknown ones fit any."""
        if self.kind != torch_kind(tensor.dtype) or self.dims is None or len(self.dims) != len(tensor.shape):
            return False
        return all(dim in (None, traced) for dim, traced in zip(self.dims, tensor.shape, strict=True))

    def is_transposed(self, tensor: TorchTensor) -> bool:
        """Return whether this has the dimensions of a traced tensor in another order, and so its elements too."""
        return self.has_other_order(tensor.shape)

    def has_other_order(self, dims: Sequence[int | None] | None) -> bool:
        """Return whether some dimensions are those of this in another order, apart from dimensions of 1."""
        if self.dims is None or dims is None:
            return False
        own, others = ([d for d in each if d != 1] for each in (self.dims, dims))
        return own != others and sorted(own, key=str) == sorted(others, key=str)

    def can_be_transposed(self, tensor: TorchTensor) -> bool:
        """Return whether this is transposed, or would be if its only unknown dimension were the one that is left."""
        if self.dims is None or self.dims.count(None) != 1 or len(self.dims) != len(tensor.shape):
            return self.is_transposed(tensor)
        left = Counter(tensor.shape)
        left.subtract(dim for dim in self.dims if dim is not None)
        return min(left.values()) >= 0 and not self.agrees(tensor)


def _is_merged_or_split(dims: Sequence[int | None], traced: Sequence[int]) -> bool:
    """Return whether the last known dimensions are some of a traced tensor, merged, or parts of one.

    A dimension begins and ends at a number of elements, counted from the last one:

        traced [1, 16, 32]    ends at 32, 512 and 512
        [n, 512]              from 1 to 512, past 32, merged: both are ends
        [n, 4, 8]             from 1 to 8 and from 8 to 32, parts of the 32
        [n, m, 16, 16]        from 1 to 16, and from 16 to 256, past 32, although neither is an end
    """
    ends = {1, *itertools.accumulate(reversed(traced), operator.mul)}
    begin = 1
    for dim in itertools.takewhile(lambda dim: dim is not None, reversed(dims)):
        end = begin * (dim or 0)
        if not {begin, end} <= ends and any(begin < each < end for each in ends):
            return False
        begin = end
    return True


class Shapes:
    """The known shapes of a graph's values, by number.

    The file comes first. Inference takes long, so it runs only when a shape is asked for that the file lacks. Its
    slower kind, which follows computed shapes, runs only if the faster kind does not find the shape. It runs at once if
    the sizes of inputs are not known, because then the faster kind hardly finds any.
    """

    def __init__(self, model: ModelProto, names: Sequence[str]) -> None:
        """Take a model, and the names of its values by number."""
        self._model, self._names = model, names
        self._declared = value_infos(model)
        self._inferred: dict[str, ValueInfoProto] = {}
        # the inferences that are left to try, the first one last
        self._propagating_left = [True] if any(map(_is_of_unknown_size, graph_inputs(model))) else [True, False]
        self._known: dict[int, TensorShape | None] = {}

    def __getitem__(self, value: int) -> TensorShape | None:
        """Return the shape of a value, None if it is unknown or the value is not a tensor."""
        if value not in self._known:
            self._known[value] = self._find(self._names[value])
        return self._known[value]

    def bytes_of(self, value: int) -> int:
        """Return roughly how many bytes a value takes in a run, 0 if its size is unknown."""
        shape = self[value]
        return 8 * (shape.count or 0) if shape else 0

    def _find(self, name: str) -> TensorShape | None:
        """Return the shape of a name from the file, else as inferred without propagation, else as inferred with it."""
        if is_shaped(self._declared.get(name)):
            return known_shape(self._declared[name])
        found = known_shape(self._inferred.get(name))
        while self._propagating_left and (found is None or found.count is None):
            self._inferred = inferred_infos(self._model, propagating=self._propagating_left.pop())
            found = known_shape(self._inferred.get(name))
        return found


def _is_of_unknown_size(info: ValueInfoProto) -> bool:
    shape = known_shape(info)
    return shape is not None and shape.count is None


def value_infos(model: ModelProto) -> dict[str, ValueInfoProto]:
    """Return the types that the file declares for values of its main graph, by name."""
    return {info.name: info for info in (*model.graph.value_info, *model.graph.output, *model.graph.input)}


def inferred_infos(
    model: ModelProto, propagating: bool = True, names: Collection[str] | None = None
) -> dict[str, ValueInfoProto]:
    """Return the types of the main graph's values by name, as the file declares them, else as ONNX infers them.

    With `propagating`, inference follows shapes that the graph computes, which takes half as long again. If `names` are
    given, the nodes behind the last one that makes one of these are left out, because inference goes through the nodes
    in order. A type may lack a shape, if nothing can infer the rank. A node that inference cannot handle leaves its own
    results unknown, but does not stop the inference of others.
    """
    model = model if names is None else _beginning(model, set(names))
    declared, inferred = value_infos(model), inferred_model(model, propagating)
    found = (
        value_infos(inferred) if inferred else _inferred_around(ModelProto.FromString(_prepared(model)), propagating)
    )
    return {**declared, **found, **{name: info for name, info in declared.items() if is_shaped(info)}}


def _beginning(model: ModelProto, names: set[str]) -> ModelProto:
    """Return a copy of a model whose last node is the last one that makes a value of one of some names."""
    beginning, count = ModelProto(), len(model.graph.node)
    beginning.CopyFrom(model)
    while count and names.isdisjoint(model.graph.node[count - 1].output):
        count -= 1
    del beginning.graph.node[count:]
    return beginning


def inferred_model(model: ModelProto, propagating: bool = True) -> ModelProto | None:
    """Return a copy of a model with the types that ONNX infers, also in bodies; None if it refuses the model."""
    try:
        return infer_types(_prepared(model), propagating=propagating)
    except refused():
        return None


def refused() -> tuple[type[Exception], ...]:
    """Return the exceptions that ONNX's inference raises if it considers a model invalid."""
    return (onnx.shape_inference.InferenceError, ValueError, RuntimeError)


def infer_types(model: bytes, checking: bool = False, propagating: bool = False) -> ModelProto:
    """Return a model after ONNX's inference; raises what that raises, LimitError if it takes too much memory.

    With `checking`, it also raises if the types of values contradict each other.
    """
    with INFERENCE.of_memory("inferring the shapes of the model", len(model)):
        # `onnx.shape_inference.infer_shapes` does nothing else, but imports most of the package
        infer = onnx.onnx_cpp2py_export.shape_inference.infer_shapes
        return cast(ModelProto, ModelProto.FromString(infer(model, checking, checking, propagating)))


def _prepared(model: ModelProto) -> bytes:
    """Return a model, serialised, in a form that ONNX's inference can handle."""
    declared, data = value_infos(model), model.SerializeToString()
    # If a model has a Loop, the name is in its bytes, and looking there costs nothing.
    added = [info for info in _loop_carried(model) if info.name not in declared] if b"Loop" in data else []
    has_blocks = BLOCK_PRODUCT[1].encode() in data
    if added or model.graph.sparse_initializer or has_blocks:
        copy = ModelProto.FromString(data)
        copy.graph.value_info.extend(added)
        make_sparse_inputs(copy.graph)
        if has_blocks:
            _make_block_products_plain(copy)
        data = copy.SerializeToString()
    return bytes(data)


def _make_block_products_plain(model: ModelProto) -> None:
    """Replace ONNX Runtime's products with packed weights by those of ONNX, whose shapes it infers, in place."""
    operators = Operators(model)
    added: dict[str, ValueInfoProto] = {}
    for node in model.graph.node:
        asked = operators.of(node).asked
        if asked and asked[:2] == BLOCK_PRODUCT and len(node.input) > 1:
            sizes = sizes_of_block_product(node)
            name = f"{node.input[1]} {sizes}"  # not the name of the packed weights, which have another shape
            added[name] = onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes)
            node.CopyFrom(
                NodeProto(op_type="MatMul", name=node.name, input=[node.input[0], name], output=node.output[:1])
            )
    model.graph.input.extend(added.values())


def make_sparse_inputs(graph: GraphProto) -> None:
    """Replace a graph's sparse initializers by inputs, in place.

    A node reads them as dense tensors, but ONNX's inference considers them values of another kind.
    """
    known = {info.name for info in graph.input}
    for sparse in graph.sparse_initializer:
        if sparse.values.name not in known:
            graph.input.append(ValueInfoProto(name=sparse.values.name, type=type_of(sparse)))
    del graph.sparse_initializer[:]


def _inferred_around(model: ModelProto, propagating: bool) -> dict[str, ValueInfoProto]:
    """Return what is inferred for a model without the nodes that stop inference altogether.

    Such nodes are those of a domain that the model does not import. Others are found one by one, by halving: such a
    node is the last node of the shortest beginning of the graph that inference refuses.
    """
    model = ModelProto.FromString(_prepared(model))
    imported, nodes = versions(model.opset_import), list(model.graph.node)
    nodes = [node for node in nodes if plain_domain(node.domain) in imported]

    def infer(count: int) -> dict[str, ValueInfoProto] | None:
        """Return what is inferred for the first nodes, None if inference refuses them."""
        del model.graph.node[:]
        model.graph.node.extend(nodes[:count])
        try:
            return value_infos(infer_types(model.SerializeToString(), propagating=propagating))
        except refused():
            return None

    for _ in range(MOST_REFUSED):
        if (found := infer(len(nodes))) is not None:
            return found
        if not nodes:
            return {}
        del nodes[bisect_left(range(1, len(nodes)), True, key=lambda count: infer(count) is None)]
    return {}


def _loop_carried(model: ModelProto) -> Iterator[ValueInfoProto]:
    """Yield the types of the values that Loops carry, if the type stays the same in each step.

    The body of a Loop declares the types of its inputs and outputs. ONNX's inference merges them to a type without
    rank, since a step could change the shape. If both are declared equal, this is not needed.
    """
    operators = Operators(model)
    for node in model.graph.node:
        if operators.of(node).is_named("Loop"):
            for body in bodies(node):
                for name, before, after in zip(node.output, body.input[2:], body.output[1:], strict=False):
                    if name and is_shaped(after) and before.type == after.type:
                        yield ValueInfoProto(name=name, type=after.type)


def is_typed(info: ValueInfoProto | None) -> bool:
    """Return whether a value has a type; a tensor must also have an element type."""
    if info is None or info.type.WhichOneof("value") is None:
        return False
    return not info.type.HasField("tensor_type") or info.type.tensor_type.elem_type != TensorProto.UNDEFINED


def is_shaped(info: ValueInfoProto | None) -> bool:
    """Return whether a value has a type; a tensor must also have a shape."""
    return (
        info is not None
        and is_typed(info)
        and info.type.tensor_type.HasField("shape") == info.type.HasField("tensor_type")
    )


def known_shape(info: ValueInfoProto | None) -> TensorShape | None:
    """Return the shape in a value's type, None if it is unknown or the value is not a tensor."""
    return None if info is None else _shape_of_type(info.type.SerializeToString())


@lru_cache(1024)
def _shape_of_type(type_: bytes) -> TensorShape | None:
    """Return the shape in a serialised type; a model has few different types, so each is read once."""
    tensor = TypeProto.FromString(type_).tensor_type
    if not tensor.elem_type:
        return None
    dims = tuple(map(size_of, tensor.shape.dim)) if tensor.HasField("shape") else None
    return TensorShape(_kind(tensor.elem_type), dims, tensor.elem_type)


def stored_shape(tensor: TensorProto) -> TensorShape:
    """Return the shape of a stored tensor."""
    return TensorShape(_kind(tensor.data_type), tuple(tensor.dims), tensor.data_type)


@cache
def _kind(element: int) -> str:
    name = TensorProto.DataType.Name(element).lower()
    return "O" if name == "string" else torch_kind(name)  # as numpy's arrays of texts


@cache
def torch_kind(dtype: str) -> str:
    """Return the kind of a torch dtype's elements, given the dtype's name: 'f', 'i', 'b' or 'c'."""
    return (
        "b"
        if dtype == "bool"
        else "c"
        if dtype.startswith("complex")
        else "i"
        if "int" in dtype and "float" not in dtype
        else "f"
    )
