"""What lies around the nodes of a cut: what they were given, what leads to them, and whether they hang together."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator

from mxtools.errors import UsageError
from mxtools.graph.index import Graph
from mxtools.graph.walk import components, nodes_behind
from mxtools.scopes.annotations import INDIRECT, Annotations


def between(graph: Graph, first: Iterable[str], last: Iterable[str]) -> tuple[set[int], set[int]]:
    """Return the nodes on all paths from the tensors `first` to the tensors `last`, and the values of `last`.

    Without `first` the paths begin at the model's inputs, without `last` they end at its outputs. Raises UsageError
    where the graph has no tensor of a name, or no path leads from the first to the last, InputError where a node
    reads what is computed from its own result.
    """
    graph.require_order()
    begin = _values(graph, first) or set(graph.inputs) - graph.stored
    end = _values(graph, last) or set(graph.outputs)
    after = set(begin)
    for node, needs in enumerate(graph.needs):
        if not after.isdisjoint(needs):
            after.update(graph.writes[node])
    nodes = nodes_behind(graph, end, until=lambda value: value in begin or value not in after)
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

    def is_end(value: int) -> bool:
        """Return whether the walk ends at a value: its maker is chosen, or is no auxiliary node."""
        maker = graph.producer[value]
        return maker in chosen or annotations.evidence[maker] not in INDIRECT

    return nodes_behind(graph, (v for n in chosen for v in graph.needs[n]), until=is_end)


def pieces(graph: Graph, chosen: Collection[int]) -> int:
    """Return the number of pieces that a selection falls into; tensors between its nodes connect, constants do not."""

    def neighbours(node: int) -> Iterator[int]:
        """Yield the nodes that a node reads from, and those that read from it."""
        yield from (graph.producer[v] for v in graph.needs[node])
        yield from map(graph.top, graph.targets(node))

    live = {n for n in chosen if not graph.is_constant(n)}
    return sum(1 for _ in components(live or set(chosen), neighbours))
