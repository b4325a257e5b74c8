"""The graphs that units are measured with: all side by side, and the model with errors added to their results."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from mxtools.graph.index import Graph
from mxtools.graph.shapes import Array

GIVEN, ADDED = "mx.given.", "mx.added."
"""Before the names of what units are given, and of what is added."""
OWN, SEEN = ".mx.own", ".mx.seen"
"""Behind the names of results before it is added, and of what another node reads of them."""


def result_of(graph: Graph, node: int) -> str:
    """Return the name of what a node makes."""
    return graph.names[graph.writes[node][0]]


def read_by(graph: Graph, nodes: Iterable[int]) -> list[str]:
    """Return the names of what nodes read besides stored tensors."""
    return list(dict.fromkeys(graph.names[v] for n in nodes for v in graph.reads[n] if v not in graph.stored))


def side_by_side(model: ModelProto, graph: Graph, nodes: Sequence[int], values: Mapping[str, Array]) -> ModelProto:
    """Return a model with some nodes only, each with inputs of its own, and what others read of it as output.

    `values` are examples of what they read and make, for the types.
    """
    part = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    part.graph.name = "units"
    read = read_by(graph, nodes)
    inputs = {name: GIVEN + name for name in read}
    for node in nodes:
        copy = part.graph.node.add()
        copy.CopyFrom(graph.nodes[node])
        copy.input[:] = [inputs.get(name, name) for name in copy.input]
    part.graph.input.extend(_info(inputs[name], values[name]) for name in read)
    for name in (result_of(graph, node) for node in nodes):
        part.graph.node.append(helper.make_node("Identity", [name], [name + SEEN], name=name + SEEN))
        part.graph.output.append(_info(name + SEEN, values[name]))
    stored = dict.fromkeys(v for node in nodes for v in graph.reads[node] if v in graph.initializers)
    part.graph.initializer.extend(graph.initializers[value] for value in stored)
    return part


def _info(name: str, example: Array) -> ValueInfoProto:
    """Return the type of an example, with as many dimensions, none of which is known."""
    dims = [f"{name}.{axis}" for axis in range(example.ndim)]
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(example.dtype), dims)


def with_outputs(model: ModelProto, names: Collection[str]) -> ModelProto:
    """Return a copy of a model with just some of its values as outputs, in that order."""
    copy = ModelProto()
    copy.CopyFrom(model)
    known = {value.name: value for value in model.graph.output}
    del copy.graph.output[:]
    copy.graph.output.extend(known.get(name) or ValueInfoProto(name=name) for name in names)
    return copy


def with_errors_added(model: ModelProto, graph: Graph, nodes: Collection[int]) -> ModelProto:
    """Return a copy of a model with an input for each of some nodes, which is added to what the node makes."""
    copy = ModelProto()
    copy.CopyFrom(model)
    results = {result_of(graph, node) for node in nodes}
    del copy.graph.node[:]
    for node in model.graph.node:
        added = next((name for name in node.output if name in results), None)
        proto: NodeProto = copy.graph.node.add()
        proto.CopyFrom(node)
        if added is not None:
            proto.output[list(node.output).index(added)] = added + OWN
            copy.graph.node.append(helper.make_node("Add", [added + OWN, ADDED + added], [added]))
            copy.graph.input.append(helper.make_tensor_value_info(ADDED + added, TensorProto.FLOAT, None))
    return copy
