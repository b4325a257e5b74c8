"""The types and shapes of tensors at the boundary of a cut: from the file, else from ONNX, else from ONNX Runtime.

The last step, folding, finds shapes that the model computes itself. Five nodes of a model with fixed inputs:

    x[2, 128] -> Relu -> r            Reshape(r, u) -> y
    x -> Shape -> s -> Slice -> t -> Concat(t, 16) -> u

The shape of `y` is the value of `u`. ONNX's inference evaluates few operators, so it often knows only the rank of `y`.
The obvious way, to let ONNX Runtime fold the whole model, loads all weights and takes long. `_folded` looks only at
what can decide a shape: it goes back from `y` and stops at each tensor of known shape that has too many elements to be
a shape itself (`r`, `x`). These become inputs. `static_shapes` then follows Shape, Slice and Concat, and finds that `y`
is [2, 8, 16]; what it cannot follow is left to ONNX Runtime, which takes longer to import than all of this takes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto

from mxtools.costs.integers import LONGEST
from mxtools.costs.static_shapes import static_shapes
from mxtools.errors import InputError
from mxtools.files.weights import WeightStore
from mxtools.graph.index import NOWHERE, Graph
from mxtools.graph.shapes import Shapes, TensorShape, inferred_infos, is_shaped, is_typed, known_shape, value_infos
from mxtools.graph.types import type_of
from mxtools.graph.walk import nodes_behind
from mxtools.runtime.sessions import runtime_infos


def boundary_infos(
    model: ModelProto, graph: Graph, weights: WeightStore, names: Collection[str]
) -> dict[str, ValueInfoProto]:
    """Return value infos of the main graph by tensor name; those of `names` are all there, with types.

    ONNX Runtime comes last because it loads the weights; it knows operators that ONNX does not. Raises InputError if
    the type of a tensor of `names` is not in the file and cannot be inferred.
    """
    known = declared = value_infos(model)
    if not all(is_shaped(declared.get(name)) for name in names):
        known = inferred_infos(model, names=names)
    missing = [name for name in names if not is_typed(known.get(name))]
    if missing:
        known |= _run(model, graph, weights, known, missing)
    for name in missing:
        if not is_typed(known.get(name)):
            raise InputError(
                f"the type of tensor {name!r} is not in the file and cannot be inferred", f"give ⟨type⟩ {name}=float32"
            )
    if all(_is_fixed(value) for value in model.graph.input):
        unknown = [name for name in names if not is_shaped(declared.get(name)) and not _is_fixed(known[name])]
        known |= _folded(model, graph, weights, known, unknown) if unknown else {}
    told = _told_by_nodes(model, graph, known, [name for name in names if is_shaped(declared.get(name))])
    return known | {name: _credible(known[name], told.get(name)) for name in names}


def _told_by_nodes(
    model: ModelProto, graph: Graph, known: Mapping[str, ValueInfoProto], names: Collection[str]
) -> dict[str, ValueInfoProto]:
    """Return what inference says about some tensors from the nodes that make them, whatever the file declares."""
    made = {name for name in names if name in graph.by_name and graph.producer[graph.by_name[name]] != NOWHERE}
    return inferred_infos(_part(model, graph, known, made, lambda v: graph.names[v] not in made)) if made else {}


def _credible(info: ValueInfoProto, told: ValueInfoProto | None) -> ValueInfoProto:
    """Return an info without what cannot be true, or what inference contradicts (which may be wrong itself).

    ONNX Runtime ignores a wrong shape of an inner tensor, but refuses an input of another shape. Some exporters write a
    size of -1 for an unknown one.
    """
    copy = ValueInfoProto()
    copy.CopyFrom(info)
    dims = copy.type.tensor_type.shape.dim
    others = told.type.tensor_type.shape.dim if told is not None and is_shaped(told) else dims
    if len(dims) != len(others):
        copy.type.tensor_type.ClearField("shape")
        return copy
    for dim, other in zip(dims, others, strict=True):
        if dim.dim_value < 0 or (dim.dim_value and other.dim_value and dim.dim_value != other.dim_value):
            dim.ClearField("dim_value")
    return copy


def _run(
    model: ModelProto, graph: Graph, weights: WeightStore, known: Mapping[str, ValueInfoProto], names: Collection[str]
) -> dict[str, ValueInfoProto]:
    """Return the infos of some tensors as ONNX Runtime infers them.

    First it gets the whole model. If it cannot load that, it gets for each tensor only the nodes between the tensor and
    what is known, so one node that it does not know leaves no other tensor without a type.
    """
    found = runtime_infos(model, weights, names)
    for name in names:
        if name not in found:
            part = _part(model, graph, known, [name], lambda value: is_typed(known.get(graph.names[value])))
            found |= runtime_infos(part, weights, [name])
    return found


def _folded(
    model: ModelProto, graph: Graph, weights: WeightStore, known: Mapping[str, ValueInfoProto], names: Collection[str]
) -> dict[str, ValueInfoProto]:
    """Return the infos of the tensors whose shapes are known once constants are folded: by ONNX Runtime, if need be.

    Only the nodes on which these shapes depend are looked at, with inputs in the place of large tensors of known shape.
    """

    def is_given(value: int) -> bool:
        """Return whether a value becomes an input: its shape is known, and it cannot be a shape itself."""
        info = known.get(graph.names[value])
        return _is_fixed(info) and not _is_short(info)

    part = _part(model, graph, known, names, is_given)
    index = Graph(part)
    shapes = static_shapes(part, index, weights, Shapes(part, index.names))
    found = {}
    for name in names:
        shape = shapes[index.by_name[name]] if name in index.by_name else None
        if shape is not None and shape.count is not None:
            found[name] = _info(name, shape)
    left = [name for name in names if name not in found]
    folded = runtime_infos(part, weights, left, folding=True) if left else {}
    return found | {name: info for name, info in folded.items() if _is_fixed(info)}


def _info(name: str, shape: TensorShape) -> ValueInfoProto:
    dims = [size for size in shape.dims or () if size is not None]
    return ValueInfoProto(name=name, type=type_of(TensorProto(data_type=shape.element, dims=dims)))


def _part(
    model: ModelProto,
    graph: Graph,
    known: Mapping[str, ValueInfoProto],
    names: Collection[str],
    is_given: Callable[[int], bool],
) -> ModelProto:
    """Return a model of the nodes behind some tensors, with inputs in the place of the given ones.

    Short initializers stay, because shapes can depend on their values; the others become inputs.
    """
    wanted = [graph.by_name[name] for name in names if name in graph.by_name]  # else nobody makes it
    nodes = nodes_behind(graph, wanted, until=is_given)
    needed = {*wanted, *(v for n in nodes for v in graph.needs[n])}
    given = {v for v in needed if graph.producer[v] == NOWHERE or is_given(v)}
    part = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    part.graph.CopyFrom(GraphProto(name="shapes", node=[graph.nodes[node] for node in sorted(nodes)]))
    for value in sorted(given):
        info = _stored(graph, value) or known.get(graph.names[value])
        if value in graph.initializers and _is_short(info):
            part.graph.initializer.append(graph.initializers[value])
        elif info is not None:
            part.graph.input.append(info)
    return part


def _stored(graph: Graph, value: int) -> ValueInfoProto | None:
    """Return the info of an initializer; None for other values."""
    tensor = graph.sparse.get(value) or graph.initializers.get(value)
    return None if tensor is None else ValueInfoProto(name=graph.names[value], type=type_of(tensor))


def _is_fixed(info: ValueInfoProto | None) -> bool:
    """Return whether all dimensions are known; a sequence or a map has none to know."""
    if info is not None and info.type.WhichOneof("value") not in (None, "tensor_type"):
        return True
    known = known_shape(info)
    return known is not None and known.count is not None


def _is_short(info: ValueInfoProto | None) -> bool:
    """Return whether a tensor has known dimensions and so few elements that it can be a shape."""
    known = known_shape(info)
    return known is not None and known.count is not None and known.count <= LONGEST
