"""Types and shapes of tensors that a user declares, because neither the file nor any inference knows them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from onnx import GraphProto, TensorProto, TypeProto, ValueInfoProto

from mxtools.costs.dimensions import LARGEST
from mxtools.errors import UsageError, suggestion
from mxtools.graph.shapes import inferred_infos, is_typed
from mxtools.graph.types import ELEMENT_TYPES, type_text, types_fit
from mxtools.pipeline.working_model import WorkingModel

Dims = Sequence[int | str | None]
"""Dimensions: sizes, names of symbolic ones, and None if nothing is known."""

UNKNOWN = "?"
"""Stands for an unknown dimension."""
_DIGITS = len(str(LARGEST)) + 1


def shapes_of(texts: Iterable[str]) -> dict[str, Dims]:
    """Return dimensions by tensor, from texts such as `hidden=1,sequence,?`; a scalar is `scale=`."""
    found: dict[str, Dims] = {}
    for text in texts:
        name, equals, listed = text.rpartition("=")
        dims = [dim.strip() for dim in listed.split(",")] if listed.strip() else []
        if not (name and equals and all(dims)):
            raise UsageError(f"{text!r} is not NAME=SIZE,SIZE…", "write hidden=1,sequence,64, with ? for unknown sizes")
        found[name] = [None if dim == UNKNOWN else _size(dim) for dim in dims]
    return found


def _size(dim: str) -> int | str:
    """Return a size, or the name of a symbolic one; of a number with too many digits the first, which are too many."""
    return int(dim[:_DIGITS]) if dim.removeprefix("-").isdecimal() else dim


def types_of(texts: Iterable[str]) -> dict[str, str]:
    """Return element types by tensor, from texts such as `hidden=float32`."""
    found = {}
    for text in texts:
        name, equals, element = text.rpartition("=")
        if not (name and equals and element):
            raise UsageError(f"{text!r} is not NAME=TYPE", "write hidden=float32")
        found[name] = element
    return found


def declare(model: WorkingModel, shapes: Mapping[str, Dims], types: Mapping[str, str]) -> None:
    """Write types and shapes of main graph's tensors into the graph, in place.

    Raises UsageError if there is no such tensor, type or size, or the graph says otherwise.
    """
    declared = {name: _type(name, shapes.get(name), types.get(name)) for name in {**shapes, **types}}
    if not declared:
        return
    known, names = inferred_infos(model.proto), model.graph.by_name
    untold = [name for name in declared if name in names and not is_typed(known.get(name))]
    known |= _at_run_time(model, untold) if untold else {}
    for name, type_ in declared.items():
        if name not in names:
            raise UsageError(f"there is no tensor {name!r}", suggestion(name, names))
        info = known.get(name)
        if info is not None and is_typed(info) and not types_fit(info.type, type_):
            raise UsageError(f"{name!r} is of type {type_text(info.type)}", f"do not declare {type_text(type_)}")
    with model.changing() as proto:
        for name, type_ in declared.items():
            base = known[name].type if name in known and known[name].type.HasField("tensor_type") else TypeProto()
            _enter(proto.graph, name, base, type_)


def _at_run_time(model: WorkingModel, names: Sequence[str]) -> dict[str, ValueInfoProto]:
    """Return what ONNX Runtime, which is imported only here, says about tensors of which ONNX knows nothing."""
    from mxtools.runtime.sessions import runtime_infos

    return runtime_infos(model.proto, model.weights, names)


def _type(name: str, dims: Dims | None, element: str | None) -> TypeProto:
    """Return the declared type of a tensor; it may lack the element type or the shape."""
    type_ = TypeProto()
    type_.tensor_type.elem_type = TensorProto.UNDEFINED
    if element is not None:
        if element not in ELEMENT_TYPES:
            raise UsageError(
                f"{element!r}, given for {name!r}, is not an element type", suggestion(element, ELEMENT_TYPES)
            )
        type_.tensor_type.elem_type = ELEMENT_TYPES[element]
    if dims is not None:
        type_.tensor_type.shape.SetInParent()
        for dim in dims:
            added = type_.tensor_type.shape.dim.add()
            if isinstance(dim, int):
                if not 0 <= dim <= LARGEST:
                    raise UsageError(f"no dimension of {name!r} has the size {dim}", f"give {LARGEST} at most")
                added.dim_value = dim
            elif dim is not None:
                added.dim_param = dim
    return type_


def _enter(graph: GraphProto, name: str, known: TypeProto, declared: TypeProto) -> None:
    """Write the type of a tensor into a graph: what is declared, and otherwise what is known."""
    merged = TypeProto()
    merged.CopyFrom(known)
    if declared.tensor_type.elem_type:
        merged.tensor_type.elem_type = declared.tensor_type.elem_type
    if declared.tensor_type.HasField("shape"):
        merged.tensor_type.shape.CopyFrom(declared.tensor_type.shape)
    infos = (info for field in (graph.input, graph.output, graph.value_info) for info in field if info.name == name)
    info = next(infos, None)
    if info is None:
        graph.value_info.append(ValueInfoProto(name=name, type=merged))
    else:
        info.type.CopyFrom(merged)
