"""What lies around the nodes that are to be cut out: what they were given, what leads to them, whether they connect."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable

from mxtools.errors import UsageError
from mxtools.graph.index import NOWHERE, Graph
from mxtools.scopes.annotations import INDIRECT, Annotations


def between(graph: Graph, first: Iterable[str], last: Iterable[str]) -> tuple[set[int], set[int]]:
    """Give the nodes on the ways from some tensors to others, and the others; without any, from inputs or to outputs.

    Raises UsageError where the graph has no such tensor, or no way leads from the ones to the others.
    """
    begin = _values(graph, first) or set(graph.inputs) - graph.stored
    end = _values(graph, last) or set(graph.outputs)
    after = set(begin)
    for node, needs in enumerate(graph.needs):
        if not after.isdisjoint(needs):
            after.update(graph.writes[node])
    nodes: set[int] = set()
    open_ = list(end - begin)
    while open_:
        value = open_.pop()
        node = graph.producer[value]
        if value in after and node not in nodes:
            nodes.add(node)
            open_ += [v for v in graph.needs[node] if v not in begin]
    if not nodes:
        raise UsageError("no way leads from the tensors of --from-tensor to those of --to-tensor", "exchange them")
    return nodes, end


def _values(graph: Graph, names: Iterable[str]) -> set[int]:
    found = set()
    for name in names:
        if name not in graph.by_name:
            near = difflib.get_close_matches(name, graph.by_name, n=3) or list(graph.by_name)[:3]
            raise UsageError(f"no tensor is called {name!r}", f"the nearest are {', '.join(near)}")
        found.add(graph.by_name[name])
    return found


def given_nodes(annotations: Annotations, chosen: Collection[int]) -> set[int]:
    """Give the nodes whose results chosen modules were given: those of calls beside them, and of their callers.

    A caller's node without direct evidence says nothing of who computed it: exporters share constants that way.
    """
    graph, hierarchy = annotations.graph, annotations.hierarchy
    inside = {call for n in chosen if (call := annotations.call[n]) is not None}
    callers = {ancestor for call in inside for ancestor in hierarchy.lineage(call)} - inside
    return {
        n
        for n, (call, word) in enumerate(zip(annotations.call, annotations.evidence, strict=True))
        if call is not None and call not in inside and graph.reads[n] and (call not in callers or word not in INDIRECT)
    }


def auxiliary_behind(annotations: Annotations, chosen: Collection[int]) -> set[int]:
    """Give the auxiliary nodes that lead to the chosen ones by way of auxiliary nodes alone."""
    graph = annotations.graph
    found: set[int] = set()
    open_ = [v for n in chosen for v in graph.needs[n]]
    while open_:
        node = graph.producer[open_.pop()]
        if node != NOWHERE and node not in found and node not in chosen and annotations.evidence[node] in INDIRECT:
            found.add(node)
            open_ += graph.needs[node]
    return found


def pieces(graph: Graph, chosen: Collection[int]) -> int:
    """Give the number of pieces of a selection that no tensor of its own connects; constants do not connect."""
    left = {n for n in chosen if not graph.constant.issuperset(graph.writes[n])} or set(chosen)
    count = 0
    while left:
        count += 1
        open_ = [left.pop()]
        while open_:
            node = open_.pop()
            made = [graph.producer[v] for v in graph.needs[node]]
            near = left.intersection([*made, *(graph.top(reader) for reader in graph.targets(node))])
            left -= near
            open_ += near
    return count
