"""What the nodes and values of a function are called: as the module itself would call them, not as its first call does.

A function stands for many calls, and the graph's names hold the place of one of them, at length:

    in the graph, of layer.0                              in the function
    node   /encoder/layer.0/attention/self/query/MatMul   /attention/self/query/MatMul    its place in the module
    value  /encoder/layer.0/…/query/MatMul_output_0       MatMul_3                        it is called after its node
    value  onnx::Unsqueeze_307                            onnx::Unsqueeze_307             any other stays

The function's metadata say how to undo it: `{"path": "/encoder/layer.0", "suffixes": ["_output_0"]}`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator

from onnx import FunctionProto, NodeProto

from mxtools.files.json_text import decoded_or_none
from mxtools.functions.structure import names_made
from mxtools.graph.functions import every_node
from mxtools.graph.rename import rename_in_function
from mxtools.scopes import keys


def shorten(function: FunctionProto, path: str) -> None:
    """Give the nodes and values of a function the names that they have in the module, which is at a path of the graph.

    Nothing is renamed where `restored` could not undo it.
    """
    named = [node for node in every_node(function.node) if node.name]
    inside, outside = f"{path}/", [node for node in named if not node.name.startswith(f"{path}/")]
    is_relative = bool(path) and not any(node.name.startswith("/") for node in outside)
    suffixes, names = _after_nodes(function)
    if names:
        _rename(function, names)
    for node in named if is_relative else ():
        node.name = node.name.removeprefix(path) if node.name.startswith(inside) else node.name
    record = {"path": path if is_relative and len(outside) < len(named) else "", "suffixes": suffixes}
    if any(record.values()):
        function.metadata_props.add(key=keys.FOLDED, value=json.dumps(record, separators=(",", ":")))


def restored(function: FunctionProto) -> FunctionProto:
    """Return a copy of a function with the names of the graph, where its metadata say how it is to be undone."""
    copy = FunctionProto()
    copy.CopyFrom(function)
    text = {entry.key: entry.value for entry in function.metadata_props}.get(keys.FOLDED, "")
    record = decoded_or_none(text) if text else None
    path, suffixes = (record.get("path"), record.get("suffixes")) if isinstance(record, dict) else (None, None)
    if isinstance(path, str) and path:
        for node in every_node(copy.node):
            if node.name.startswith("/"):  # a name that is set to what it is would be no longer missing
                node.name = f"{path}{node.name}"
    if isinstance(suffixes, list) and all(isinstance(suffix, str) for suffix in suffixes):
        taken = {*copy.input, *names_made(copy.node)}
        names: dict[str, str] = {}
        for node, place, name in _results(copy):
            if node.name and place < len(suffixes) and _is_short(name, node) and name not in names:
                wanted = f"{node.name}{suffixes[place]}"
                if wanted not in taken:  # as it can be in a function that another tool changed
                    taken.add(wanted)
                    names[name] = wanted
        _rename(copy, names)
    return copy


def _after_nodes(function: FunctionProto) -> tuple[list[str], dict[str, str]]:
    """Return what follows a node's name in those of its first, second … result, and short names for such values."""
    results = [(node, place, name) for node, place, name in _results(function) if node.name]
    if any(_is_short(name, node) for node, _, name in results):
        return [], {}
    counted: dict[int, Counter[str]] = {}
    for node, place, name in results:
        if name.startswith(node.name) and len(name) > len(node.name):
            counted.setdefault(place, Counter())[name.removeprefix(node.name)] += 1
    suffixes: list[str] = []
    while len(suffixes) in counted:
        suffixes.append(counted[len(suffixes)].most_common(1)[0][0])
    taken, count = {*function.input, *names_made(function.node)}, Counter[str]()
    names: dict[str, str] = {}
    for node, place, name in results:
        if place < len(suffixes) and name == f"{node.name}{suffixes[place]}" and name not in names:
            while (short := _short(node, count[node.op_type])) in taken:
                count[node.op_type] += 1
            count[node.op_type] += 1
            names[name] = short
    return (suffixes, names) if names else ([], {})


def _results(function: FunctionProto) -> Iterator[tuple[NodeProto, int, str]]:
    """Yield what the nodes of a function make, bodies not counted: the node, which of its results, the name."""
    given = set(function.input)
    for node in function.node:
        yield from ((node, place, name) for place, name in enumerate(node.output) if name and name not in given)


def _short(node: NodeProto, number: int) -> str:
    return f"{node.op_type}_{number}" if number else node.op_type


def _is_short(name: str, node: NodeProto) -> bool:
    return bool(re.fullmatch(rf"{re.escape(node.op_type)}(?:_[0-9]+)?", name))


def _rename(function: FunctionProto, names: dict[str, str]) -> None:
    rename_in_function(function, names)
    function.output[:] = [names.get(name, name) for name in function.output]
