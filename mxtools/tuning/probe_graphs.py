"""The two graphs that units are measured with.

In one, all units stand side by side, and none is connected to another (`side_by_side`). The other is the model as it
is, in which an error can be added to each unit's result (`with_errors_added`). For a node B that reads a and makes b:

    side by side        mx.given.a ─ B ─ b ─ Identity ─ b.mx.seen

    errors added        a ─ B ─ b.mx.own ─┐
                                          ├ Add ─ b ─ the nodes that read b
                        mx.added.b ───────┘
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from mxtools.graph.index import Graph
from mxtools.graph.shapes import Array

GIVEN, ADDED = "mx.given.", "mx.added."
"""Prefixes of the names of inputs: of what units read, and of the errors that are added."""
OWN, SEEN = ".mx.own", ".mx.seen"
"""Suffixes of the names of results: before an error is added, and as a node that is not quantised would read them."""


def result_of(graph: Graph, node: int) -> str:
    """Return the name of the first value that a node makes."""
    return graph.names[graph.writes[node][0]]


def read_by(graph: Graph, nodes: Iterable[int]) -> list[str]:
    """Return the names of the values that nodes read, each once, without stored tensors."""
    return list(dict.fromkeys(graph.names[v] for n in nodes for v in graph.reads[n] if v not in graph.stored))


def side_by_side(model: ModelProto, graph: Graph, nodes: Sequence[int], values: Mapping[str, Array]) -> ModelProto:
    """Return a model that has only some nodes, not connected to each other.

    What they read is an input, one for all nodes that read the same value. Behind each result stands an Identity, in
    the place of the nodes that read it: they are not quantised, so the output is what a quantised node hands on to
    them. `values` has an example of each value that the nodes read and make, from which the types are taken.
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
    """Return the name with the element type of an example and its number of dimensions, whose sizes are left open."""
    dims = [f"{name}.{axis}" for axis in range(example.ndim)]
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(example.dtype), dims)


def with_outputs(model: ModelProto, names: Collection[str]) -> ModelProto:
    """Return a copy of a model whose outputs are just the values `names`, in that order, inner values too."""
    copy = ModelProto()
    copy.CopyFrom(model)
    known = {value.name: value for value in model.graph.output}
    del copy.graph.output[:]
    copy.graph.output.extend(known.get(name) or ValueInfoProto(name=name) for name in names)
    return copy


def with_errors_added(model: ModelProto, graph: Graph, nodes: Collection[int]) -> ModelProto:
    """Return a copy of a model with an input for each of some nodes, float32 of any shape.

    It is added to the node's first result; a scalar 0 changes nothing.
    """
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
