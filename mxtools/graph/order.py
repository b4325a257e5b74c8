"""The order of nodes: in a valid graph, each node comes after the nodes that make what it reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto

from mxtools.graph.walk import in_order


def bodies(node: NodeProto) -> Iterator[GraphProto]:
    """Return the graphs in the attributes of a node."""
    return graphs_in(node.attribute)


def graphs_in(attributes: Iterable[AttributeProto]) -> Iterator[GraphProto]:
    """Yield the graphs in attributes."""
    for attribute in attributes:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == AttributeProto.GRAPHS:
            yield from attribute.graphs


def in_order_of_flow(nodes: Sequence[NodeProto]) -> list[int]:
    """Return the places of a graph's nodes, each after those that make what it and its bodies read.

    Nodes that are in order stay in their order. Raises CycleError if a node needs its own result.
    """
    maker = {name: place for place, node in enumerate(nodes) for name in node.output if name}

    def before(place: int) -> list[int]:
        """Return the nodes whose results a node reads."""
        return [maker[name] for name in _names_read(nodes[place]) if name in maker]

    return in_order(range(len(nodes)), before)


def sort_nodes(model: ModelProto) -> None:
    """Put the nodes of a model in order, in place: those of the graph, of all bodies and of all functions."""
    for holder in (model.graph, *model.functions):
        _sort(holder)


def _sort(holder: GraphProto | FunctionProto) -> None:
    for node in holder.node:
        for body in bodies(node):
            _sort(body)
    nodes = list(holder.node)
    order = in_order_of_flow(nodes)
    if order != sorted(order):
        del holder.node[:]
        holder.node.extend(nodes[place] for place in order)


def _names_read(node: NodeProto) -> Iterator[str]:
    """Yield what a node reads, what the nodes in its bodies read, and what these return."""
    yield from node.input
    for body in bodies(node):
        yield from (value.name for value in body.output)
        for inner in body.node:
            yield from _names_read(inner)
