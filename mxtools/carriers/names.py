"""Tags in names: `/encoder/layer.0/MatMul` for a node, and `/encoder/layer.0/MatMul_output_0` for its first output.

Quantisers, TensorRT and OpenVINO select by node names. Names of values survive more tools than the name, doc string or
metadata of any node, because a tool that replaces a node has to keep the name of the value that others read.
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
    """Return a unique name with its scope for each node; a node without a scope keeps its name."""
    paths = _paths(annotations.hierarchy)
    taken = {proto.name for proto, call in zip(annotations.graph.nodes, annotations.call, strict=True) if call is None}
    names, counts = [], Counter[str]()
    for proto, call in zip(annotations.graph.nodes, annotations.call, strict=True):
        if call is None:
            names.append(proto.name)
            continue
        base = name = f"{paths[call]}/{proto.op_type}"
        while name in taken:
            counts[base] += 1
            name = f"{base}_{counts[base]}"
        taken.add(name)
        names.append(name)
    return names


def scope_in(name: str, known: Collection[str]) -> str | None:
    """Return the scope in a name, None if it is not one of our names.

    `known` are the scopes of the model. Levels that a tool appended are cut off until a known scope is left.
    """
    if not name.startswith("/"):
        return None
    levels = name[1:].split("/")[:-1]
    if not levels:
        return ROOT
    while levels and ".".join(levels) not in known:
        levels.pop()
    return ".".join(levels) if levels else None


def is_named_after_operator(node: NodeProto) -> bool:
    """Return whether a node's name ends with its operator, as our names do; if not, a tool made it another node."""
    last, operator = node.name.rpartition("/")[2], node.op_type
    return last == operator or last.removeprefix(f"{operator}_").isdecimal()


def rename_nodes(graph: Graph, names: list[str]) -> None:
    """Set the names of all nodes."""
    for proto, name in zip(graph.nodes, names, strict=True):
        if proto.name != name:
            proto.name = name


def rename_outputs(model: ModelProto, graph: Graph, names: list[str]) -> None:
    """Name the outputs of nodes after the nodes; `names` has the nodes' new names.

    Inputs and outputs of the model and weights keep their names. So do the outputs of nodes without a name, and names
    that two values have (in different bodies). A value computed from weights alone counts as a weight: an exporter that
    stores equal weights once makes the others results of `Identity` nodes, which have the names of these weights.
    """
    # A name is known within one graph or function only, so each of these is renamed by itself.
    nodes_of: list[list[int]] = [[] for _ in range(1 + len(model.functions))]
    for node, region in enumerate(graph.region):
        nodes_of[region].append(node)
    for region, nodes in enumerate(nodes_of):
        made = Counter(name for node in nodes for name in graph.nodes[node].output)
        fixed = _fixed(model, region)
        taken = set(fixed)
        renamed: dict[str, str] = {}
        for node in nodes:
            if not names[node] or (graph.reads[node] and graph.is_constant(node)):
                continue
            for position, name in enumerate(graph.nodes[node].output):
                if name and made[name] == 1 and name not in fixed:
                    renamed[name] = fresh(f"{names[node]}_output_{position}", taken)
                    taken.add(renamed[name])
        if region:
            rename_in_function(model.functions[region - 1], renamed)
        else:
            rename_values(model.graph, renamed)


def _fixed(model: ModelProto, region: int) -> set[str]:
    """Return the names in a graph or function that must stay: its inputs, outputs and weights."""
    if region:
        return {*model.functions[region - 1].input, *model.functions[region - 1].output}
    made = {name for node in every_node(model.graph.node) for name in node.output}
    return (names_in(model.graph) - made) | {value.name for value in model.graph.output}


def _paths(hierarchy: Hierarchy) -> list[str]:
    """Return the scope of each call with `/` before each level: `/encoder/layer.0`."""
    paths = [""]
    for call in range(1, len(hierarchy)):
        paths.append(f"{paths[hierarchy.parent[call]]}/{hierarchy.local(call)}")
    return paths
