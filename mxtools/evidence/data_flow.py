"""Scopes by data flow: the lowest common ancestor of a node's readers, or else of its sources.

    x ─ Shape ─ ConstantOfShape ─┬─ Add ─── Mul ─ Identity ─ y        known: Add is `enc.a`, Mul is `enc.b`
                                 └───────────┘

Auxiliary nodes do not say where they belong. The obvious way is to take the scope of what feeds a node. It fails for
most of them: constants and shape chains begin with nothing, or with an input of the graph, and would all end up in the
root. Taking the scope of the first reader fails if several modules read the result: here that would be `enc.a`.

So a node gets the lowest common ancestor of *all* its readers: ConstantOfShape goes to `enc`, and so does the Shape,
which only ConstantOfShape reads. The nodes are visited against the data flow, so one round settles whole chains. The
root reads the outputs of the graph, so the Identity goes to the root. A node without readers gets the scope of what
feeds it, along the data flow. Bodies (of If, Loop, Scan) and functions in which nothing is known get the scope of the
node that holds or calls them. Whatever is still open gets the root, with the evidence `root`.

A call runs without a break, so what lies between two of its nodes ran inside it, whoever else reads it:

    x ─ MatMul ─ Split ─┬─ Softmax ─ Mul ─ z        known: MatMul and Softmax are `step`, Mul is `step@1`, a later call,
                        └──────────────┘            for which an exporter did not compute the Split again

So the Split goes to `step`, not to the root. Without a trace, calls of a module have one scope, and what lies between
two nodes of the same scope may lie between two calls. Then it takes nodes of two scopes, such as `a.conv` and `a.act`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from mxtools.graph.index import NOWHERE, Graph
from mxtools.scopes.annotations import Annotations, Evidence
from mxtools.scopes.hierarchy import ROOT_CALL


def resolve(annotations: Annotations, between: bool = False) -> None:
    """Annotate every node that has no annotation yet.

    With `between`, nodes between two known scopes first get the lowest common ancestor of these. Raises InputError if a
    node reads a value that is computed from its own result.
    """
    graph = annotations.graph
    graph.require_order()
    if between:
        _by_both(graph, annotations)
    # _by_readers runs twice: a constant that only a dead end reads must wait until the dead end gets its scope from its
    # sources
    for fill in (_by_readers, _by_sources, _by_readers, _by_holder, _by_sites):
        fill(graph, annotations, _open(annotations))
    annotations.set_all(_open(annotations), ROOT_CALL, Evidence.ROOT)


def _by_both(graph: Graph, annotations: Annotations) -> None:
    """Give each open node between known ones the lowest common ancestor of the nearest known ones on either side."""
    count, hierarchy = len(graph.nodes), annotations.hierarchy
    before = _nearest(annotations, range(count), graph.sources)
    after = _nearest(annotations, range(count - 1, -1, -1), graph.targets)
    for node, (a, b) in enumerate(zip(before, after, strict=True)):
        if annotations.call[node] is None and a is not None and b is not None:
            annotations.set(node, hierarchy.meet(a, b), Evidence.DATAFLOW)


def _nearest(
    annotations: Annotations, nodes: Iterable[int], neighbours: Callable[[int], Iterable[int]]
) -> list[int | None]:
    """Return for each node its call, or the common ancestor of the nearest known nodes in one direction."""
    found = list(annotations.call)
    for node in nodes:
        if found[node] is None:
            calls = {call for n in neighbours(node) if (call := found[n]) is not None}
            found[node] = annotations.hierarchy.common(calls) if calls else None
    return found


def _open(annotations: Annotations) -> list[int]:
    """Return the nodes that have no annotation yet."""
    return [node for node, call in enumerate(annotations.call) if call is None]


def _by_readers(graph: Graph, annotations: Annotations, nodes: list[int]) -> None:
    """Go through the open nodes against the data flow: a chain gets the scope of what it leads to."""
    outputs, hierarchy = set(graph.outputs), annotations.hierarchy
    before = _nearest(annotations, nodes, graph.sources)
    begins = {node: calls[0] for node, calls in annotations.merged.items() if calls}
    for node in reversed(nodes):
        calls = {call for n in graph.targets(node) if (call := begins.get(n, annotations.call[n])) is not None}
        at = before[node]
        within = [hierarchy.meet(at, c) for c in calls if at is not None and (c != at or hierarchy.is_traced)]
        if not outputs.isdisjoint(graph.writes[node]):
            calls.add(ROOT_CALL)
        if calls:
            _set_within(annotations, node, max([hierarchy.common(calls), *within], key=hierarchy.depth.__getitem__))


def _by_sources(graph: Graph, annotations: Annotations, nodes: list[int]) -> None:
    """Go through the open nodes along the data flow: a node without a known reader gets the scope of what feeds it."""
    for node in nodes:
        _resolve(annotations, node, graph.sources(node))


def _by_holder(graph: Graph, annotations: Annotations, nodes: list[int]) -> None:
    """Give the open nodes of a body the scope of the node that holds it, outermost first."""
    for node in reversed(nodes):
        if graph.owner[node] != NOWHERE:
            _resolve(annotations, node, (graph.owner[node],))


def _by_sites(graph: Graph, annotations: Annotations, nodes: list[int]) -> None:
    """Give the open nodes of a function, which has one body, the lowest common ancestor of the nodes that call it."""
    for node in nodes:
        if graph.region[node]:
            _resolve(annotations, node, graph.sites[graph.region[node]])


def _resolve(annotations: Annotations, node: int, neighbours: Iterable[int]) -> None:
    """Give a node the lowest common ancestor of its neighbours' calls, if any is known."""
    calls = {call for n in neighbours if (call := annotations.call[n]) is not None}
    if calls:
        _set_within(annotations, node, annotations.hierarchy.common(calls))


def _set_within(annotations: Annotations, node: int, call: int) -> None:
    """Give a node a call, unless it is known to lie in a call that this one is not in: then that one."""
    around = annotations.around.get(node, ROOT_CALL)
    is_in_it = annotations.hierarchy.within(call, around)
    annotations.set(node, call if is_in_it else around, Evidence.DATAFLOW)
