"""Types and shapes of the tensors at a boundary: from the file, else inferred by ONNX, else by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from onnx import GraphProto, ModelProto, ValueInfoProto, helper

from mxtools.errors import InputError
from mxtools.files.weights import WeightStore
from mxtools.graph.index import NOWHERE, Graph
from mxtools.graph.shapes import inferred_infos, is_shaped, is_typed, shaped, value_infos
from mxtools.runtime.sessions import runtime_infos

LONGEST = 64
"""Elements up to which a tensor may decide the shape of another: larger ones are no shapes."""


def boundary_infos(
    model: ModelProto, graph: Graph, weights: WeightStore, names: Collection[str]
) -> dict[str, ValueInfoProto]:
    """Give the value infos of tensors of the main graph, those named among them.

    ONNX Runtime is asked for types last because it loads the weights: it knows operators that ONNX does not. Raises
    InputError where nobody knows a type.
    """
    known = said = value_infos(model)
    if not all(is_shaped(said.get(name)) for name in names):
        known = inferred_infos(model)
    missing = [name for name in names if not is_typed(known.get(name))]
    if missing:
        known |= runtime_infos(model, weights, missing)
    for name in missing:
        if not is_typed(known.get(name)):
            raise InputError(
                f"the type of tensor {name!r} is not in the file and cannot be inferred", "add it as value_info"
            )
    if all(_is_fixed(value) for value in model.graph.input):
        vague = [name for name in names if not is_shaped(said.get(name)) and not _is_fixed(known[name])]
        known |= _folded(model, graph, weights, known, vague) if vague else {}
    return known


def _folded(
    model: ModelProto, graph: Graph, weights: WeightStore, known: Mapping[str, ValueInfoProto], names: Collection[str]
) -> dict[str, ValueInfoProto]:
    """Give the infos of tensors whose shapes are known once constants are folded, which ONNX does for few operators.

    ONNX Runtime does it, on what the shapes hang on: in the place of large tensors of known shapes there are inputs.
    """
    nodes: set[int] = set()
    given: set[int] = set()
    open_ = [graph.by_name[name] for name in names]
    while open_:
        value = open_.pop()
        node, info = graph.producer[value], known.get(graph.names[value])
        if node == NOWHERE or (_is_fixed(info) and not _is_short(info)):
            given.add(value)
        elif node not in nodes:
            nodes.add(node)
            open_ += graph.needs[node]
    part = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    part.graph.CopyFrom(GraphProto(name="shapes", node=[graph.nodes[node] for node in sorted(nodes)]))
    for value in sorted(given):
        info = _stored(graph, value) or known[graph.names[value]]
        if value in graph.initializers and _is_short(info):
            part.graph.initializer.append(graph.initializers[value])
        else:
            part.graph.input.append(info)
    found = runtime_infos(part, weights, names, folding=True)
    return {name: info for name, info in found.items() if _is_fixed(info)}


def _stored(graph: Graph, value: int) -> ValueInfoProto | None:
    """Give the info of an initializer, None for what is none."""
    if value in graph.sparse:
        tensor = graph.sparse[value]
        return helper.make_tensor_value_info(graph.names[value], tensor.values.data_type, tensor.dims)
    dense = graph.initializers.get(value)
    return None if dense is None else helper.make_tensor_value_info(dense.name, dense.data_type, dense.dims)


def _is_fixed(info: ValueInfoProto | None) -> bool:
    """Tell whether all dimensions are known; what is no tensor has none."""
    if info is not None and info.type.WhichOneof("value") not in (None, "tensor_type"):
        return True
    known = shaped(info)
    return known is not None and known.count is not None


def _is_short(info: ValueInfoProto | None) -> bool:
    """Tell whether a tensor of known dimensions is so small that it can be a shape."""
    known = shaped(info)
    return known is not None and known.count is not None and known.count <= LONGEST
