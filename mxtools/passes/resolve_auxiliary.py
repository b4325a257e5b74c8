"""The pass `resolve-auxiliary`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar

from onnx import ModelProto

from mxtools.annotations import Annotations, Evidence
from mxtools.context import Context, Pass, option
from mxtools.hierarchy import ROOT_CALL
from mxtools.model.graph import NOWHERE, Graph


@dataclass(frozen=True)
class ResolveAuxiliary(Pass):
    """Scopes of all other nodes by data flow: the lowest common ancestor of what reads, else of what feeds them."""

    name: ClassVar[str] = "resolve-auxiliary"
    annotates: ClassVar[bool] = True

    between: bool = option("first give what lies between two scopes their lowest common ancestor", False)

    def apply(self, model: ModelProto, context: Context) -> None:
        """Annotate every node that has no annotation yet."""
        graph, annotations = context.graph(model), context.annotations(model)
        if self.between:
            _by_both(graph, annotations)
        _by_readers(graph, annotations)
        _by_sources(graph, annotations)
        _by_readers(graph, annotations)
        _by_holder(graph, annotations)
        _by_sites(graph, annotations)
        for node, call in enumerate(annotations.call):
            if call is None:
                annotations.set(node, ROOT_CALL, Evidence.ROOT)


def _by_both(graph: Graph, annotations: Annotations) -> None:
    """Give each open node that is between known ones the lowest common ancestor of the nearest on both sides."""
    count, hierarchy = len(graph.nodes), annotations.hierarchy

    def nearest(nodes: Iterable[int], neighbours: Callable[[int], Iterable[int]]) -> list[int | None]:
        found = list(annotations.call)
        for node in nodes:
            if found[node] is None:
                calls = {call for n in neighbours(node) if (call := found[n]) is not None}
                found[node] = hierarchy.common(calls) if calls else None
        return found

    before = nearest(range(count), graph.sources)
    after = nearest(range(count - 1, -1, -1), graph.targets)
    for node, (a, b) in enumerate(zip(before, after, strict=True)):
        if annotations.call[node] is None and a is not None and b is not None:
            annotations.set(node, hierarchy.meet(a, b), Evidence.DATAFLOW)


def _by_readers(graph: Graph, annotations: Annotations) -> None:
    """Go through the open nodes against the data flow: a chain gets the scope of what it leads to."""
    outputs = set(graph.outputs)
    for node in range(len(graph.nodes) - 1, -1, -1):
        if annotations.call[node] is None:
            inside = not outputs.intersection(graph.writes[node])
            _resolve(annotations, node, graph.targets(node), () if inside else (ROOT_CALL,))


def _by_sources(graph: Graph, annotations: Annotations) -> None:
    """Go through the open nodes along the data flow: what nobody known reads gets the scope of what feeds it."""
    for node in range(len(graph.nodes)):
        if annotations.call[node] is None:
            _resolve(annotations, node, graph.sources(node))


def _by_holder(graph: Graph, annotations: Annotations) -> None:
    """Give the open nodes of a body the scope of the node that holds it, outermost first."""
    for node in range(len(graph.nodes) - 1, -1, -1):
        if annotations.call[node] is None and graph.owner[node] != NOWHERE:
            _resolve(annotations, node, (graph.owner[node],))


def _by_sites(graph: Graph, annotations: Annotations) -> None:
    """Give the open nodes of a function the lowest common ancestor of its calls; a function's body has one scope."""
    for node, region in enumerate(graph.region):
        if annotations.call[node] is None and region:
            _resolve(annotations, node, graph.sites[region])


def _resolve(annotations: Annotations, node: int, neighbours: Iterable[int], known: tuple[int, ...] = ()) -> None:
    """Give a node the lowest common ancestor of its neighbours' calls, where any is known."""
    calls = {call for n in neighbours if (call := annotations.call[n]) is not None}
    calls.update(known)
    if calls:
        annotations.set(node, annotations.hierarchy.common(calls), Evidence.DATAFLOW)
