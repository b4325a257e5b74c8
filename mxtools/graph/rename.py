"""Renaming values: in nodes, bodies, types and quantization annotations at once."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from onnx import FunctionProto, GraphProto, NodeProto

from mxtools.graph.index import bodies


def fresh(name: str, taken: Collection[str]) -> str:
    """Return a name that is not taken: the name itself, else the first free one of `name_1`, `name_2` …."""
    candidate, count = name, 0
    while candidate in taken:
        count += 1
        candidate = f"{name}_{count}"
    return candidate


def names_in(graph: GraphProto, in_bodies: bool = True) -> set[str]:
    """Return the names of all values in a graph, even of values that are only read, and in the bodies of its nodes."""
    found = {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
    found.update(sparse.values.name for sparse in graph.sparse_initializer)
    for node in graph.node:
        found.update(node.input)
        found.update(node.output)
        for body in bodies(node) if in_bodies else ():
            found |= names_in(body)
    return found - {""}


def rename_values(graph: GraphProto, names: Mapping[str, str]) -> dict[str, str]:
    """Rename values in place, at any depth, by `names` (old to new); return all renamings that were done.

    A new name may belong to another value already. That one then gets a fresh name, so that nothing reads another value
    than before: `{"a": "b"}` in a graph with `a` and `b` renames `a` to `b`, and `b` to `b_1`. Swapping two names is
    fine. Raises ValueError if two values would get the same name.
    """
    present = names_in(graph)
    done = {old: new for old, new in names.items() if old in present and new != old}
    if len(set(done.values())) < len(done):
        raise ValueError("two values cannot have one name")
    taken = present | set(done.values())
    # Values make room if another value gets their name and they do not get a new one anyway.
    for name in sorted(set(done.values()) & present - done.keys()):
        done[name] = fresh(name, taken)
        taken.add(done[name])
    if done:
        replace_values(graph, done)
    return done


def rename_in_function(function: FunctionProto, names: Mapping[str, str]) -> None:
    """Rename values inside a function in place, at any depth, by `names` (old to new); no new name may be taken."""
    for value in function.value_info:
        _set(value, "name", names)
    for node in function.node:
        _rename_in_node(node, names)


def replace_values(graph: GraphProto, names: Mapping[str, str]) -> None:
    """Rename values in place, at any depth, by `names` (old to new); two that get the same name become one value."""
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
        replace_values(body, names)


def _set(proto: Any, field: str, names: Mapping[str, str]) -> None:  # noqa: ANN401 - any message with a name in it
    name = getattr(proto, field)
    if name in names:
        setattr(proto, field, names[name])
