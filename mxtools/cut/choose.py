"""From selectors to nodes: which nodes of a model's main graph are to be cut out."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Collection, Iterable
from itertools import chain

from mxtools.errors import AbsentError, UsageError
from mxtools.graph.index import NOWHERE, Graph
from mxtools.scopes.annotations import INDIRECT, Annotations
from mxtools.scopes.selection import Selection


def calls_of(annotations: Annotations, selection: Selection, absent: dict[str, str]) -> set[int]:
    """Give the selected calls, each with all below it that nodes bear.

    Raises UsageError where a selector matches nothing, AbsentError where what it names is in `absent`, or ends inside a
    node that does the work of modules that are not selected.
    """
    calls = selected_calls(annotations, selection, absent)
    _refuse_merged(annotations, calls)
    return calls


def selected_calls(annotations: Annotations, selection: Selection, absent: dict[str, str]) -> set[int]:
    """Give the selected calls, those too that end inside a node of others; raises what `calls_of` does for the rest."""
    hierarchy = annotations.hierarchy
    borne = {call for call in annotations.call if call is not None}
    known = borne | {a for call in borne for a in hierarchy.lineage(call)} | set(chain(*annotations.merged.values()))
    known = {call for call in known if hierarchy.scopes[call] not in absent}
    scopes = selection.places({hierarchy.scopes[c]: hierarchy.tags[c] for c in known}, absent)
    return {call for call in known if hierarchy.scopes[call] in scopes}


def separate_calls(
    annotations: Annotations,
    selections: Iterable[Selection],
    depth: int | None,
    exclude: tuple[str, ...],
    absent: dict[str, str],
) -> dict[int, set[int]]:
    """Give the outermost calls of each selection, each with all below it that is not excluded.

    With `depth` also the calls that many levels below the root, and leaves above that. Raises UsageError where one lies
    in another, AbsentError where one ends inside a node of others.
    """
    hierarchy = annotations.hierarchy
    chosen = _at_depth(annotations, depth) if depth is not None else set[int]()
    for selection in selections:
        calls = calls_of(annotations, selection, absent)
        chosen |= {call for call in calls if hierarchy.parent[call] not in calls}
    kept = calls_of(annotations, Selection(exclude=exclude), absent)
    within: dict[int, int] = {}
    for call in sorted(kept):
        around = within.get(hierarchy.parent[call])
        if around is not None and call in chosen:
            names = hierarchy.scopes[call], hierarchy.scopes[around]
            raise UsageError(f"{names[0]} lies in {names[1]}, and both are selected: select one of them")
        if around is not None or call in chosen:
            within[call] = call if around is None else around
    found: dict[int, set[int]] = {}
    for call, outer in within.items():
        found.setdefault(outer, set()).add(call)
    for calls in found.values():
        _refuse_merged(annotations, calls)
    return found


def _at_depth(annotations: Annotations, depth: int) -> set[int]:
    """Give the calls so many levels below the root, and leaves above that, of those with nodes in the main graph."""
    hierarchy, graph = annotations.hierarchy, annotations.graph
    borne = {call for n in graph.main if (call := annotations.call[n]) is not None}
    held = {ancestor for call in borne for ancestor in hierarchy.lineage(call)}
    inner = {hierarchy.parent[call] for call in held}
    return {c for c in held if hierarchy.depth[c] == depth or (hierarchy.depth[c] < depth and c not in inner)}


def nodes_of(annotations: Annotations, calls: Collection[int], operators: Collection[str] = ()) -> set[int]:
    """Give the nodes of the main graph in some calls, only of some operators where these are given.

    Raises UsageError where there is none, AbsentError where one is in a body or function outside of the selection.
    """
    nodes = nodes_anywhere(annotations, calls, operators)
    chosen = nodes.intersection(annotations.graph.main)
    _refuse_inner(annotations, nodes, chosen)
    return chosen


def nodes_anywhere(annotations: Annotations, calls: Collection[int], operators: Collection[str] = ()) -> set[int]:
    """Give the nodes in some calls, those of bodies and functions too; UsageError where there is none."""
    nodes = annotations.graph.nodes
    found = {
        n
        for n, call in enumerate(annotations.call)
        if call in calls and (not operators or nodes[n].op_type in operators)
    }
    if not found:
        raise UsageError(f"no selected node is a {' or '.join(operators)}: see `mx tree`")
    return found


def _refuse_inner(annotations: Annotations, nodes: set[int], chosen: set[int]) -> None:
    """Refuse a selection of which a part is in a body or a function that no chosen node holds or calls.

    What only data flow put there does not count, unless nothing else is selected.
    """
    graph = annotations.graph
    here, elsewhere = _called(graph, chosen), _called(graph, set(range(len(graph.nodes))) - chosen)
    for node in sorted(nodes - chosen):
        region = graph.region[node]
        held = region in here or region not in elsewhere if region else graph.top(node) in chosen
        if not held and (not chosen or annotations.evidence[node] not in INDIRECT):
            holder = graph.nodes[next(iter(graph.sites.get(region, ())), graph.top(node))]
            place = f"the function {holder.op_type!r}" if region else f"the body of {holder.op_type} {holder.name!r}"
            scope = annotations.hierarchy.scopes[annotations.call[node] or 0]
            raise AbsentError(f"{scope} is in {place}: select the module that {'calls' if region else 'holds'} it")


def _called(graph: Graph, chosen: set[int]) -> set[int]:
    """Give the regions of the functions that some nodes of the main graph call, directly or through another."""
    calls: dict[int, set[int]] = defaultdict(set)
    open_: list[int] = []
    for region, sites in graph.sites.items():
        for site in sites:
            calls[graph.region[site]].add(region)
            if graph.region[site] == 0 and graph.top(site) in chosen:
                open_.append(region)
    found: set[int] = set()
    while open_:
        region = open_.pop()
        if region not in found:
            found.add(region)
            open_ += calls[region]
    return found


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
        raise UsageError("no way leads from the tensors of --from-tensor to those of --to-tensor: exchange them")
    return nodes, end


def _values(graph: Graph, names: Iterable[str]) -> set[int]:
    found = set()
    for name in names:
        if name not in graph.by_name:
            near = difflib.get_close_matches(name, graph.by_name, n=3) or list(graph.by_name)[:3]
            raise UsageError(f"no tensor is called {name!r}: the nearest are {', '.join(near)}")
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


def _refuse_merged(annotations: Annotations, calls: set[int]) -> None:
    """Refuse a selection that ends inside a node outside of it, which does other modules' work too."""
    hierarchy = annotations.hierarchy
    outermost = {call for call in calls if hierarchy.parent[call] not in calls}
    for node, merged in annotations.merged.items():
        ending = outermost.intersection(merged)
        if ending and annotations.call[node] not in calls:
            proto = annotations.graph.nodes[node]
            raise AbsentError(
                f"{hierarchy.scopes[min(ending)]} ends inside {proto.op_type} {proto.name!r}, which does the work of "
                f"{hierarchy.scopes[annotations.call[node] or 0]} too: select that, or export with --keep-modules"
            )
