"""What lies around the nodes of a cut: what they were given, what leads to them, and whether they hang together."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable

from mxtools.errors import UsageError
from mxtools.graph.index import NOWHERE, Graph
from mxtools.scopes.annotations import INDIRECT, Annotations


def between(graph: Graph, first: Iterable[str], last: Iterable[str]) -> tuple[set[int], set[int]]:
    """Return the nodes on all paths from the tensors `first` to the tensors `last`, and the values of `last`.

    Without `first` the paths begin at the model's inputs, without `last` they end at its outputs. Raises UsageError
    where the graph has no tensor of a name, or no path leads from the first to the last.
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
        raise UsageError("no way leads from the tensors of ⟨from-tensor⟩ to those of ⟨to-tensor⟩", "exchange them")
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
    """Return the nodes whose results the chosen modules were given: nodes of calls beside them, and of their callers.

    A caller's node counts only with direct evidence: without it the node may be a constant that the exporter shared
    among the modules that use it, and no result of the caller.
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
    """Return the auxiliary nodes that lead to the chosen ones through auxiliary nodes alone."""
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
    """Return the number of pieces that a selection falls into; tensors between its nodes connect, constants do not."""
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
