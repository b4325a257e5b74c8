"""The order of nodes: in a valid graph each comes after those that make what it reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

from onnx import GraphProto, ModelProto, NodeProto

from mxtools.graph.functions import every_node, model_nodes
from mxtools.graph.index import bodies
from mxtools.graph.walk import in_order


def in_order_of_flow(nodes: Sequence[NodeProto]) -> list[int]:
    """Return the places of a graph's nodes, each after those that make what it and its bodies read.

    Those that are in order stay so. Raises CycleError where a node needs its own result.
    """
    maker = {name: place for place, node in enumerate(nodes) for name in node.output if name}

    def before(place: int) -> list[int]:
        """Return the nodes whose results a node reads."""
        return [maker[name] for name in _names_read(nodes[place]) if name in maker]

    return in_order(range(len(nodes)), before)


def sort_nodes(model: ModelProto) -> None:
    """Put the nodes of a model in order, in place: those of the graph, of all bodies and of all functions."""
    inner = (body for node in model_nodes(model) for body in bodies(node))
    for holder in chain(list(inner), (model.graph,), model.functions):
        nodes = list(holder.node)
        order = in_order_of_flow(nodes)
        if order != sorted(order):
            del holder.node[:]
            holder.node.extend(nodes[place] for place in order)


def _names_read(node: NodeProto) -> Iterator[str]:
    """Yield what a node reads, what the nodes in its bodies read, and what these return."""
    for inner in every_node([node]):
        yield from inner.input
        for body in bodies(inner):
            yield from _returned(body)


def _returned(body: GraphProto) -> Iterator[str]:
    return (value.name for value in body.output)
