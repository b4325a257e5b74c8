"""The functions of a model: which ones are used, and how the functions of two models fit into one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from onnx import FunctionProto, ModelProto, NodeProto

from mxtools.graph.index import bodies, graphs_in
from mxtools.graph.operators import OperatorKey, function_key, operator_key
from mxtools.graph.rename import fresh
from mxtools.graph.walk import reached


def every_node(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """Yield nodes, and the nodes in their bodies, at any depth."""
    for node in nodes:
        yield node
        for body in bodies(node):
            yield from every_node(body.node)


def function_nodes(function: FunctionProto) -> Iterator[NodeProto]:
    """Yield the nodes of a function, including those in bodies and in graphs that are default values of attributes."""
    yield from every_node(function.node)
    for default in graphs_in(function.attribute_proto):
        yield from every_node(default.node)


def model_nodes(model: ModelProto) -> Iterator[NodeProto]:
    """Yield the nodes of a model's graph and of its functions, at any depth."""
    yield from every_node(model.graph.node)
    for function in model.functions:
        yield from function_nodes(function)


def used_functions(model: ModelProto, nodes: Iterable[NodeProto]) -> list[FunctionProto]:
    """Return the functions of a model that nodes call, directly or through other functions, in the model's order."""
    functions = {function_key(f): f for f in model.functions}
    if not functions:
        return []

    def called(key: OperatorKey) -> Iterator[OperatorKey]:
        """Yield the operators and functions that a function's nodes name."""
        return map(operator_key, function_nodes(functions[key]) if key in functions else ())

    used = reached(map(operator_key, every_node(nodes)), called)
    return [f for key, f in functions.items() if key in used]


def separate_functions(part: ModelProto, model: ModelProto) -> None:
    """Rename functions of a part that differ from the model's of the same name, or call one that differs.

    A function that calls a renamed one differs too, even if its own nodes are equal. ONNX has overloads for this
    purpose, but ONNX Runtime ignores them in the nodes of functions.
    """
    known = {function_key(f): f for f in model.functions}
    own = {function_key(f): f for f in part.functions}
    callers: dict[OperatorKey, set[OperatorKey]] = defaultdict(set)
    for key, function in own.items():
        for node in function_nodes(function) if key in known else ():
            callers[operator_key(node)].add(key)
    different = (key for key, f in own.items() if key in known and not _equal(f, known[key]))
    renamed = reached(different, lambda key: callers[key])
    taken = {(domain, name) for domain, name, _ in (*known, *own)}
    names: dict[OperatorKey, str] = {}
    for domain, name, overload in sorted(renamed):
        names[domain, name, overload] = fresh(name, {n for d, n in taken if d == domain})
        taken.add((domain, names[domain, name, overload]))
    for function in part.functions:
        function.name = names.get(function_key(function), function.name)
    for node in model_nodes(part):
        node.op_type = names.get(operator_key(node), node.op_type)


def _equal(one: FunctionProto, other: FunctionProto) -> bool:
    return bool(one.SerializeToString() == other.SerializeToString())
