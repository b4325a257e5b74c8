"""Renaming values: through nodes, bodies, types and quantization annotations at once."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from onnx import FunctionProto, GraphProto, NodeProto

from mxtools.graph.index import bodies


def fresh(name: str, taken: Collection[str]) -> str:
    """Give a name that is not taken: the name itself, else with the first of `_1`, `_2` … that is free."""
    found, count = name, 0
    while found in taken:
        count += 1
        found = f"{name}_{count}"
    return found


def names_in(graph: GraphProto) -> set[str]:
    """Give the names of all values in a graph and in the bodies of its nodes, read ones included."""
    found = {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
    found.update(sparse.values.name for sparse in graph.sparse_initializer)
    for node in graph.node:
        found.update(node.input)
        found.update(node.output)
        for body in bodies(node):
            found |= names_in(body)
    return found - {""}


def rename_values(graph: GraphProto, names: Mapping[str, str]) -> dict[str, str]:
    """Rename values, in place: a value that bears a key of `names`, at whatever depth, gets the name that stands there.

    Nothing is captured: where another value bears a new name already, that one gets a fresh name, so that two names
    that differed differ still, and everything that read a value reads it still. Swapping names is fine. Give all
    renamings that were done, old to new. Raises ValueError where two values would get one name.
    """
    present = names_in(graph)
    done = {old: new for old, new in names.items() if old in present and new != old}
    if len(set(done.values())) < len(done):
        raise ValueError("two values cannot have one name")
    taken = present | set(done.values())
    for name in sorted(set(done.values()) & present - done.keys()):
        done[name] = fresh(name, taken)
        taken.add(done[name])
    if done:
        _rename(graph, done)
    return done


def rename_in_function(function: FunctionProto, names: Mapping[str, str]) -> None:
    """Rename values inside a function, at whatever depth, in place; the new names must not be taken."""
    for value in function.value_info:
        _set(value, "name", names)
    for node in function.node:
        _rename_in_node(node, names)


def _rename(graph: GraphProto, names: Mapping[str, str]) -> None:
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        _set(value, "name", names)
    for sparse in graph.sparse_initializer:
        _set(sparse.values, "name", names)
    for note in graph.quantization_annotation:
        _set(note, "tensor_name", names)
        for entry in note.quant_parameter_tensor_names:
            _set(entry, "value", names)
    for node in graph.node:
        _rename_in_node(node, names)


def _rename_in_node(node: NodeProto, names: Mapping[str, str]) -> None:
    for field in (node.input, node.output):
        if any(name in names for name in field):
            field[:] = [names.get(name, name) for name in field]
    for configuration in node.device_configurations:
        for sharding in configuration.sharding_spec:
            _set(sharding, "tensor_name", names)
    for body in bodies(node):
        _rename(body, names)


def _set(proto: Any, field: str, names: Mapping[str, str]) -> None:  # noqa: ANN401 - any message with a name in it
    name = getattr(proto, field)
    if name in names:
        setattr(proto, field, names[name])
