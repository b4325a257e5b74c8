"""Model Explorer: a graph with namespaces, overlays of node data, and which nodes of two graphs belong together.

Formats: the `graph_builder` and `node_data_builder` modules of ai-edge-model-explorer 0.1. Its ONNX adapter reads
namespaces from the metadata of nodes, and identifies nodes by their names.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from onnx import ModelProto

from mxtools.carriers.foreign import namespaces
from mxtools.graph.index import Graph
from mxtools.scopes import keys
from mxtools.views.metric_files import as_json
from mxtools.views.structure import OUTSIDE, Metric, Structure

GRADIENT = [
    {"stop": 0, "bgColor": "#edf3fa", "textColor": "#16181b"},
    {"stop": 0.5, "bgColor": "#6aa5d0", "textColor": "#16181b"},
    {"stop": 1, "bgColor": "#0c427a", "textColor": "#ffffff"},
]
UNNAMED = "<main>"
"""The ONNX adapter's name for a graph without a name."""


def _namespaces(structure: Structure) -> list[str]:
    """Return the namespace of the items in each scope."""
    below = list(enumerate(structure.scopes))[1:]
    return namespaces((scope.parent, structure.local(number), scope.class_name) for number, scope in below)


def graph(structure: Structure, name: str) -> dict[str, Any]:
    """Return the graph as Model Explorer's own JSON."""
    spaces = _namespaces(structure)
    incoming = _incoming(structure)
    nodes = [
        _node(node_id, node.operator, spaces[node.parent], incoming, _attributes(structure, item))
        | {"outputsMetadata": [_output(structure, i, value) for i, value in enumerate(node.outputs)]}
        for item, (node, node_id) in enumerate(zip(structure.nodes, structure.ids, strict=True), len(structure.scopes))
    ]
    given = dict.fromkeys(edge.value for edge in structure.edges if edge.source == OUTSIDE)
    made = dict.fromkeys(edge.value for edge in structure.edges if edge.target == OUTSIDE)
    ends = [
        _node(_end(structure, value), label, "", incoming, {"name": structure.values[value].name})
        | {"outputsMetadata": [_output(structure, 0, value)]}
        for label, values in (("Input", given), ("Output", made))
        for value in values
    ]
    about = {spaces[i]: {"scope": s.scope, "tag": s.tag} for i, s in enumerate(structure.scopes) if i}
    return {"label": structure.title, "graphs": [{"id": name, "nodes": ends + nodes, "groupNodeAttributes": about}]}


def overlay(structure: Structure, name: str, metric: Metric) -> dict[str, Any]:
    """Return a metric as node data of a graph: each node's own number or, if no node has one, its module's.

    A node's module is the innermost one with a number. The number of the whole model says nothing about a node.
    """
    results: dict[str, dict[str, Any]] = {}
    numbers = metric.nodes or {scope: number for scope, number in metric.scopes.items() if scope}
    for item, node_id in enumerate(structure.ids, len(structure.scopes)):
        number = next((numbers[place] for place in structure.lineage(item) if place in numbers), None)
        if number is not None:
            results[node_id] = {"value": as_json(number)}
    return {name: {"results": results, "gradient": GRADIENT}}


def sync_navigation(left: Structure, right: Structure) -> dict[str, Any]:
    """Return which nodes of two graphs of a model belong together: those with the same name, else the same scope.

    A node that stands for several scopes belongs to the nodes of each.
    """
    left_nodes, right_nodes = _by_scope(left), _by_scope(right)
    by_scope, by_name = list[dict[str, list[str]]](), list[dict[str, list[str]]]()
    for scope in (scope for scope in left_nodes if scope in right_nodes):
        shared = set(left_nodes[scope]).intersection(right_nodes[scope])
        left_only, right_only = ([i for i in ids if i not in shared] for ids in (left_nodes[scope], right_nodes[scope]))
        if left_only or right_only:
            ends = left_only or left_nodes[scope], right_only or right_nodes[scope]
            by_scope.append({"leftNodeIds": ends[0], "rightNodeIds": ends[1]})
        by_name += [{"leftNodeIds": [i], "rightNodeIds": [i]} for i in left_nodes[scope] if i in shared]
    return {"type": "sync_navigation", "mappingEntries": by_scope + by_name}  # the last entry for a node counts


def graph_name(model: ModelProto) -> str:
    """Return the main graph's name in Model Explorer."""
    return model.graph.name or UNNAMED


def write_namespaces(model: ModelProto, indexed: Graph, structure: Structure) -> None:
    """Write namespaces to a model's nodes, and the names by which node data and navigation identify the nodes."""
    spaces = _namespaces(structure)
    for proto, node, name in zip(indexed.nodes, structure.nodes, structure.ids, strict=True):
        keys.set_prop(proto, keys.NAMESPACE, spaces[node.parent])
        proto.name = name
    model.graph.name = graph_name(model)


def _by_scope(structure: Structure) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for node, node_id in zip(structure.nodes, structure.ids, strict=True):
        for scope in dict.fromkeys((structure.scopes[node.parent].scope, *node.merged)):
            found[scope].append(node_id)
    return found


def _node(
    node_id: str, label: str, place: str, incoming: dict[str, list[dict[str, str]]], attributes: dict[str, str]
) -> dict[str, Any]:
    attrs = [{"key": key, "value": value} for key, value in attributes.items()]
    edges = incoming.get(node_id, [])
    return {"id": node_id, "label": label, "namespace": place, "attrs": attrs, "incomingEdges": edges}


def _attributes(structure: Structure, item: int) -> dict[str, str]:
    node = structure.node(item)
    scope = structure.scopes[node.parent]
    known = {"scope": scope.scope, "tag": scope.tag, "evidence": node.evidence, "merged": ", ".join(node.merged)}
    return {k: v for k, v in known.items() if v} | node.attributes


def _incoming(structure: Structure) -> dict[str, list[dict[str, str]]]:
    """Return the edges that lead to each node, by its id."""
    first, ids = len(structure.scopes), structure.ids
    outputs = _places(node.outputs for node in structure.nodes)
    inputs = _places(node.inputs for node in structure.nodes)
    found: dict[str, list[dict[str, str]]] = defaultdict(list)
    for edge in structure.edges:
        source = _end(structure, edge.value) if edge.source == OUTSIDE else ids[edge.source - first]
        target = _end(structure, edge.value) if edge.target == OUTSIDE else ids[edge.target - first]
        output = 0 if edge.source == OUTSIDE else outputs[edge.source - first, edge.value]
        place = 0 if edge.target == OUTSIDE else inputs[edge.target - first, edge.value]
        ends = {"sourceNodeId": source, "sourceNodeOutputId": str(output), "targetNodeInputId": str(place)}
        found[target].append(ends)
    return found


def _places(values: Iterable[tuple[int, ...]]) -> dict[tuple[int, int], int]:
    """Return the first place of each value in a node's list of values, by the node's number and the value."""
    found: dict[tuple[int, int], int] = {}
    for node, listed in enumerate(values):
        for place, value in enumerate(listed):
            found.setdefault((node, value), place)
    return found


def _output(structure: Structure, place: int, value: int) -> dict[str, Any]:
    known = structure.values[value]
    attributes = [{"key": "__tensor_tag", "value": known.name}, {"key": "tensor_shape", "value": known.type}]
    return {"id": str(place), "attrs": attributes}


def _end(structure: Structure, value: int) -> str:
    """Return the id of an input or output, in the form that the ONNX adapter uses."""
    return f"[value] {structure.values[value].name}"
