"""The functions of a model: which are used, and how those of two models come together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from onnx import FunctionProto, ModelProto, NodeProto

from mxtools.graph.index import bodies, graphs_in
from mxtools.graph.rename import fresh

Key = tuple[str, str, str]
"""Domain, name and overload of a function, or of what a node calls."""


def every_node(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """Give nodes and those of their bodies, at any depth."""
    for node in nodes:
        yield node
        for body in bodies(node):
            yield from every_node(body.node)


def nodes_of(function: FunctionProto) -> Iterator[NodeProto]:
    """Give the nodes of a function, those of bodies and of graphs that are defaults of its attributes too."""
    yield from every_node(function.node)
    for default in graphs_in(function.attribute_proto):
        yield from every_node(default.node)


def used_functions(model: ModelProto, nodes: Iterable[NodeProto]) -> list[FunctionProto]:
    """Give the functions of a model that nodes use, directly or through another, in the model's order."""
    functions = {key_of(f): f for f in model.functions}
    used: set[Key] = set()
    open_ = [called(node) for node in every_node(nodes)] if functions else []
    while open_:
        key = open_.pop()
        if key in functions and key not in used:
            used.add(key)
            open_ += [called(node) for node in nodes_of(functions[key])]
    return [f for key, f in functions.items() if key in used]


def separate_functions(part: ModelProto, model: ModelProto) -> None:
    """Rename the functions of a part that are others than the model's of the same name, or that call such.

    Overloads would be for that, but ONNX Runtime takes no notice of them in what a function calls.
    """
    known = {key_of(f): f for f in model.functions}
    calls = {key_of(f): {called(n) for n in nodes_of(f)} for f in part.functions}
    other = {key_of(f) for f in part.functions if key_of(f) in known and not _equal(f, known[key_of(f)])}
    while more := {k for k in calls.keys() & known.keys() - other if not calls[k].isdisjoint(other)}:
        other |= more
    taken = {(domain, name) for domain, name, _ in (*known, *calls)}
    names: dict[Key, str] = {}
    for domain, name, overload in sorted(other):
        names[domain, name, overload] = fresh(name, {n for d, n in taken if d == domain})
        taken.add((domain, names[domain, name, overload]))
    for function in part.functions:
        function.name = names.get(key_of(function), function.name)
    for node in [*every_node(part.graph.node), *(n for f in part.functions for n in nodes_of(f))]:
        node.op_type = names.get(called(node), node.op_type)


def key_of(function: FunctionProto) -> Key:
    """Give what identifies a function in a model."""
    return function.domain, function.name, function.overload


def called(node: NodeProto) -> Key:
    """Give what identifies the function that a node calls, if it calls one."""
    return node.domain, node.op_type, node.overload


def _equal(one: FunctionProto, other: FunctionProto) -> bool:
    return bool(one.SerializeToString() == other.SerializeToString())
