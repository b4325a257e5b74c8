"""Tags in names: `/encoder/layer.0/MatMul` for a node, and with `_output_0` for what it makes.

Quantisers, TensorRT and OpenVINO select by node names; names of values survive more tools than any of what nodes bear.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from onnx import ModelProto, NodeProto

from mxtools.graph.functions import every_node
from mxtools.graph.index import Graph
from mxtools.graph.rename import fresh, names_in, rename_in_function, rename_values
from mxtools.scopes.annotations import Annotations
from mxtools.scopes.hierarchy import Hierarchy
from mxtools.scopes.scope import ROOT


def node_names(annotations: Annotations) -> list[str]:
    """Give each node a name that holds its scope, and no other node has; one without a scope keeps its own."""
    paths = _paths(annotations.hierarchy)
    taken = {proto.name for proto, call in zip(annotations.graph.nodes, annotations.call, strict=True) if call is None}
    found, counts = [], Counter[str]()
    for proto, call in zip(annotations.graph.nodes, annotations.call, strict=True):
        if call is None:
            found.append(proto.name)
            continue
        base = name = f"{paths[call]}/{proto.op_type}"
        while name in taken:
            counts[base] += 1
            name = f"{base}_{counts[base]}"
        taken.add(name)
        found.append(name)
    return found


def scope_in(name: str, known: Collection[str]) -> str | None:
    """Give the scope that a name holds, also one that a tool added something to; None where it is none of ours."""
    if not name.startswith("/"):
        return None
    levels = name[1:].split("/")[:-1]
    if not levels:
        return ROOT
    while levels and ".".join(levels) not in known:
        levels.pop()
    return ".".join(levels) if levels else None


def is_named_after(node: NodeProto) -> bool:
    """Tell whether a node's name says the operator that it has."""
    last, operator = node.name.rpartition("/")[2], node.op_type
    return last == operator or last.removeprefix(f"{operator}_").isdecimal()


def rename_nodes(graph: Graph, names: list[str]) -> None:
    """Give the nodes their names."""
    for proto, name in zip(graph.nodes, names, strict=True):
        if proto.name != name:
            proto.name = name


def rename_outputs(model: ModelProto, graph: Graph, names: list[str]) -> None:
    """Name what nodes make after them: all but inputs, outputs and weights, and what is made twice by that name.

    What is computed from weights alone counts as a weight: exporters leave equal weights once, and name copies of it.
    """
    for region in range(1 + len(model.functions)):
        nodes = [node for node in range(len(graph.nodes)) if graph.region[node] == region]
        made = Counter(name for node in nodes for name in graph.nodes[node].output)
        fixed = _fixed(model, region)
        wanted: dict[str, str] = {}
        for node in nodes:
            if graph.reads[node] and graph.constant.issuperset(graph.writes[node]):
                continue
            for place, name in enumerate(graph.nodes[node].output):
                if name and made[name] == 1 and name not in fixed:
                    wanted[name] = fresh(f"{names[node]}_output_{place}", fixed)
        if region:
            rename_in_function(model.functions[region - 1], wanted)
        else:
            rename_values(model.graph, wanted)


def _fixed(model: ModelProto, region: int) -> set[str]:
    """Give the names of a graph or function that are not made by its nodes, or known outside of it."""
    if region:
        return {*model.functions[region - 1].input, *model.functions[region - 1].output}
    made = {name for node in every_node(model.graph.node) for name in node.output}
    return (names_in(model.graph) - made) | {value.name for value in model.graph.output}


def _paths(hierarchy: Hierarchy) -> list[str]:
    """Give for each call the levels of its scope, each behind a `/`."""
    found = [""]
    for call in range(1, len(hierarchy)):
        found.append(f"{found[hierarchy.parent[call]]}/{hierarchy.local(call)}")
    return found
