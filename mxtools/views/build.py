"""Build the structure that views show from a tagged model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import count

import onnx
from onnx import AttributeProto, ValueInfoProto

from mxtools.graph.index import NOWHERE, Graph
from mxtools.graph.operators import operator_title
from mxtools.graph.shapes import inferred_infos, is_typed
from mxtools.graph.types import type_of, type_text
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes.annotations import Annotations
from mxtools.scopes.parameters import parameter_sizes, stored_tensors
from mxtools.views.statistics import statistics_of
from mxtools.views.structure import OUTSIDE, Edge, Metric, Node, Scope, Structure, Value
from mxtools.views.tree import Branch, tree

LONGEST = 120
"""The most characters of an attribute that are shown."""


def structure(model: WorkingModel, title: str, statistics: bool = False) -> Structure:
    """Return what views show of a tagged model; InputError if no node has a scope.

    With `statistics`, the weights are read, one piece at a time, and what is known of their elements is shown too.
    """
    model.require_tagged(title)
    annotations = model.annotations
    graph = annotations.graph
    costs = model.costs()
    products = costs.multiply_adds
    branches = list(_flat(tree(annotations, costs)))
    scopes = [Scope(branch.scope, branch.tag, parent, branch.nodes) for parent, branch in branches]
    sizes = parameter_sizes(annotations, stored_tensors(graph))
    used = {node: sum(sizes.get(value, 0) for value in {*reads}) for node, reads in enumerate(graph.reads)}
    metrics = {
        "nodes": Metric({i: float(scope.nodes) for i, scope in enumerate(scopes)}, total=float(scopes[0].nodes)),
        "parameters": Metric(
            {i: float(branch.parameters) for i, (_, branch) in enumerate(branches)},
            {len(scopes) + node: float(size) for node, size in used.items() if size},
            total=float(branches[0][1].parameters),
        ),
    }
    if products:
        metrics["multiply-adds"] = Metric(
            {i: float(branch.multiply_adds) for i, (_, branch) in enumerate(branches) if branch.multiply_adds},
            {len(scopes) + node: float(count) for node, count in products.items()},
            total=float(branches[0][1].multiply_adds),
        )
    return Structure(
        title,
        scopes,
        list(_nodes(annotations, {scope.scope: i for i, scope in enumerate(scopes)})),
        list(_values(model, statistics)),
        list(_edges(graph, len(scopes))),
        metrics,
    )


def _flat(branch: Branch, parent: int = OUTSIDE, numbers: Iterator[int] | None = None) -> Iterator[tuple[int, Branch]]:
    """Yield a branch and those below it, parents first, each with the number of the branch around it."""
    numbers = numbers or count()
    number = next(numbers)
    yield parent, branch
    for child in branch.children:
        yield from _flat(child, number, numbers)


def _nodes(annotations: Annotations, numbers: Mapping[str, int]) -> Iterator[Node]:
    graph, scopes = annotations.graph, annotations.hierarchy.scopes
    for node, proto in enumerate(graph.nodes):
        call, writes = annotations.call[node], graph.writes[node]
        yield Node(
            proto.name,
            operator_title(proto),
            0 if call is None else numbers[scopes[call]],
            str(annotations.evidence[node] or ""),
            graph.reads[node],
            writes,
            bool(writes) and graph.is_constant(node),
            {attribute.name: _attribute(attribute) for attribute in proto.attribute},
            tuple(scopes[c] for c in annotations.merged.get(node, ())),
        )


def _edges(graph: Graph, first: int) -> Iterator[Edge]:
    """Yield the edges between nodes, numbered from `first`, and those from the model's inputs and to its outputs."""
    weights, returned, given = graph.stored, set(graph.outputs), set(graph.inputs)
    for value, (producer, readers) in enumerate(zip(graph.producer, graph.readers, strict=True)):
        if value in weights or (producer == NOWHERE and value not in given):
            continue
        source = OUTSIDE if producer == NOWHERE else first + producer
        for reader in dict.fromkeys(readers):
            yield Edge(source, first + reader, value)
        if value in returned and source != OUTSIDE:
            yield Edge(source, OUTSIDE, value)


def _values(model: WorkingModel, statistics: bool) -> Iterator[Value]:
    graph, infos = model.graph, inferred_infos(model.proto)
    for value, name in enumerate(graph.names):
        weight = graph.initializers.get(value) or graph.sparse.get(value)
        if weight is None:
            yield Value(name, _type(infos.get(name)), weight=False)
        else:
            known = statistics_of(weight, model.weights) if statistics else None
            yield Value(name, type_text(type_of(weight), usual=True), weight=True, statistics=known)


def _type(info: ValueInfoProto | None) -> str:
    return "" if info is None or not is_typed(info) else type_text(info.type, usual=True)


def _attribute(attribute: AttributeProto) -> str:
    """Return an attribute as text, cut off if it is long; a tensor by its type, a graph by its number of nodes."""
    if attribute.ref_attr_name:
        return f"@{attribute.ref_attr_name}"
    kind = attribute.type
    if kind == AttributeProto.TENSOR:
        return type_text(type_of(attribute.t), usual=True)
    if kind == AttributeProto.GRAPH:
        return f"graph of {len(attribute.g.node)} nodes"
    value = onnx.helper.get_attribute_value(attribute)
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
