"""A large graph in pieces, to ask ONNX Runtime whether it accepts each of its nodes.

The time in which ONNX Runtime plans a session grows with the square of the number of nodes, because it looks for the
reader of each value in the list of all nodes (200 000 nodes take 30 times as long as 20 000, and 1.5 GB). Whether it
accepts a node depends only on the node, its constants, and the types of what it reads. So pieces show as much as the
whole graph. With SIZE = 2:

    x -> A -> B -> C -> D -> y       x -> A -> B -> b    and    b -> C -> D -> y
    B and D read the weight w        each piece has a copy of w
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from onnx import ModelProto, ValueInfoProto

from mxtools.graph.index import Graph
from mxtools.graph.shapes import is_typed
from mxtools.graph.walk import NOWHERE

SIZE = 10_000
"""Nodes of a piece: so few that the squared part of the time is small, and so many that a session pays off."""


def pieces(model: ModelProto, graph: Graph, infos: Mapping[str, ValueInfoProto]) -> Iterator[ModelProto]:
    """Yield the pieces of a sorted model; the model itself if it is small, or the type of a boundary is unknown.

    `graph` is the model's index; `infos` has the types of its values by name.
    """
    starts = range(0, len(graph.main), SIZE)
    groups = [graph.main[start : start + SIZE] for start in starts]
    given = [_given(graph, group) for group in groups]
    if len(groups) == 1 or not all(
        is_typed(infos.get(graph.names[value])) for values in given for value in values if _is_input(graph, value)
    ):
        yield model
        return
    for group, values in zip(groups, given, strict=True):
        yield _piece(model, graph, infos, group, values)


def _given(graph: Graph, nodes: Sequence[int]) -> list[int]:
    """Return the values that nodes need but do not make."""
    members = set(nodes)
    return list(dict.fromkeys(v for n in nodes for v in graph.needs[n] if graph.producer[v] not in members))


def _is_input(graph: Graph, value: int) -> bool:
    """Return whether a value that a piece does not make is its input, and not a constant that it has a copy of."""
    producer = graph.producer[value]
    if producer != NOWHERE:
        return graph.nodes[producer].op_type != "Constant"
    return value not in graph.stored or value in graph.inputs


def _piece(
    model: ModelProto, graph: Graph, infos: Mapping[str, ValueInfoProto], nodes: Sequence[int], given: Sequence[int]
) -> ModelProto:
    """Return nodes as a model."""
    piece = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    piece.graph.name = model.graph.name
    for value in given:
        if _is_input(graph, value):
            piece.graph.input.append(infos[graph.names[value]])
        if graph.producer[value] != NOWHERE and not _is_input(graph, value):
            piece.graph.node.append(graph.nodes[graph.producer[value]])
        elif value in graph.initializers:
            piece.graph.initializer.append(graph.initializers[value])
        elif value in graph.sparse:
            piece.graph.sparse_initializer.append(graph.sparse[value])
    piece.graph.node.extend(graph.nodes[node] for node in nodes)
    members, outputs = set(nodes), set(graph.outputs)
    for value in (value for node in nodes for value in graph.writes[node]):
        readers = graph.readers[value]
        if value in outputs or not readers or any(graph.top(reader) not in members for reader in readers):
            name = graph.names[value]
            piece.graph.output.append(infos.get(name, ValueInfoProto(name=name)))
    return piece
