"""Selectors, from text to nodes: globs over scopes and tags, class names and operators, the same in every command.

A scope selects itself and all below it. `*`, `?` and `[…]` match within one level, `**` across levels. A `Selection`
holds the selectors; `calls_of` finds the calls that they mean, and `nodes_of` the nodes of these.
"""

from __future__ import annotations

import difflib
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import cache
from itertools import chain

from mxtools.errors import AbsentError, UsageError
from mxtools.graph.index import Graph
from mxtools.scopes.annotations import INDIRECT, Annotations
from mxtools.scopes.scope import ROOT
from mxtools.scopes.tags import class_of


@dataclass(frozen=True)
class Selection:
    """What to select: by any of the scopes, tags and classes, without the excluded scopes."""

    scopes: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    @property
    def is_positive(self) -> bool:
        """Whether it says what to select, and not only what to leave out."""
        return bool(self.scopes or self.tags or self.classes)

    def places(self, known: dict[str, str], absent: dict[str, str]) -> set[str]:
        """Give the selected ones of the scopes of a model, given with their tags.

        A selector that matches nothing is refused: AbsentError where it names a module that the exporter removed,
        UsageError with the nearest scopes otherwise.
        """
        if not self.is_positive:
            chosen = set(known)
        else:
            chosen = {s for pattern in self.scopes for s in _by_scope(pattern, known, absent)}
            chosen |= {s for pattern in self.tags for s in _by_tag(pattern, known)}
            chosen |= {s for name in self.classes for s in _by_class(name, known)}
        for pattern in self.exclude:
            chosen -= _by_scope(pattern, known, absent)
        return chosen


def calls_of(annotations: Annotations, selection: Selection) -> set[int]:
    """Give the selected calls, each with all below it that nodes bear.

    Raises UsageError where a selector matches nothing, AbsentError where what it names is known to be absent, or ends
    inside a node that does the work of modules that are not selected.
    """
    calls = selected_calls(annotations, selection)
    _refuse_merged(annotations, calls)
    return calls


def selected_calls(annotations: Annotations, selection: Selection) -> set[int]:
    """Give the selected calls, those too that end inside a node of others; raises what `calls_of` does for the rest."""
    hierarchy, absent = annotations.hierarchy, annotations.absent
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
) -> dict[int, set[int]]:
    """Give the outermost calls of each selection, each with all below it that is not excluded.

    With `depth` also the calls that many levels below the root, and leaves above that. Raises UsageError where one lies
    in another, AbsentError where one ends inside a node of others.
    """
    hierarchy = annotations.hierarchy
    chosen = _at_depth(annotations, depth) if depth is not None else set[int]()
    for selection in selections:
        calls = calls_of(annotations, selection)
        chosen |= {call for call in calls if hierarchy.parent[call] not in calls}
    kept = calls_of(annotations, Selection(exclude=exclude))
    within: dict[int, int] = {}
    for call in sorted(kept):
        around = within.get(hierarchy.parent[call])
        if around is not None and call in chosen:
            names = hierarchy.scopes[call], hierarchy.scopes[around]
            raise UsageError(f"{names[0]} lies in {names[1]}, and both are selected", "select one of them")
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
        raise UsageError(f"no selected node is a {' or '.join(operators)}", "see `mx tree`")
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
            raise AbsentError(f"{scope} is in {place}", f"select the module that {'calls' if region else 'holds'} it")


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
                f"{hierarchy.scopes[annotations.call[node] or 0]} too",
                "select that, or export with --keep-modules",
            )


def _by_scope(pattern: str, known: dict[str, str], absent: dict[str, str]) -> set[str]:
    if pattern == ROOT:
        return set(known)
    matches = _matcher(pattern, ".")
    found = {scope for scope in known if matches(scope) and (scope != ROOT or "**" in pattern)}
    if not found:
        removed = [scope for scope in absent if matches(scope)]
        if removed:
            raise AbsentError(_removed(removed[0], absent[removed[0]]))
        raise UsageError(_nothing("scope", pattern, _with_ancestors(known)))
    return found


def _by_tag(pattern: str, known: dict[str, str]) -> set[str]:
    matches = _matcher(pattern, "/")
    found = {scope for scope, tag in known.items() if matches(tag)}
    if not found:
        raise UsageError(_nothing("tag", pattern, known.values()))
    return found


def _by_class(name: str, known: dict[str, str]) -> set[str]:
    levels = {scope: [class_of(level) for level in tag.split("/")[1:]] for scope, tag in known.items()}
    found = {scope for scope in known if name in levels[scope]}
    if not found:
        raise UsageError(_nothing("class", name, {c for classes in levels.values() for c in classes}))
    return found


def _removed(scope: str, reason: str) -> str:
    kind, _, into = reason.partition(": ")
    why = {
        "merged": f"the exporter merged it into {into}: select that, or export with --keep-modules",
        "folded": "the exporter folded it away: export with --keep-modules",
        "unused": "nothing uses what it computes, and the exporter removed it: select the module that calls it",
        "vacuous": "it returns just what it is given: select the module that calls it",
    }
    return f"{scope} has no node in this graph, {why.get(kind, f'{reason}: select the module that calls it')}"


def _nothing(what: str, wanted: str, known: Iterable[str]) -> str:
    choices = sorted(set(known))
    near = difflib.get_close_matches(wanted.replace("*", ""), choices, n=3, cutoff=0.5) or choices[:3]
    return f"no node has a {what} that matches {wanted!r}: the nearest are {', '.join(near)} (see `mx tree`)"


def _with_ancestors(scopes: Iterable[str]) -> set[str]:
    """Give scopes with all that they lie below."""
    return {".".join(parts[: n + 1]) for scope in scopes for parts in [scope.split(".")] for n in range(len(parts))} - {
        ""
    }


def _matcher(pattern: str, separator: str) -> Callable[[str], object]:
    """Give a test whether a path, or one that it lies below, matches a glob."""
    return _expression(pattern, separator).match


@cache
def _expression(pattern: str, separator: str) -> re.Pattern[str]:
    within = f"[^{re.escape(separator)}]"
    text, at = "", 0
    while at < len(pattern):
        literal = re.compile(r"\[(!?)(\]?[^\]]*)\]").match(pattern, at)
        if pattern.startswith("**", at):
            text, at = text + ".*", at + 2
        elif literal:
            text += f"[{'^' if literal[1] else ''}{_class(literal[2])}]"
            at = literal.end()
        else:
            text += {"*": within + "*", "?": within}.get(pattern[at], re.escape(pattern[at]))
            at += 1
    return re.compile(f"(?:{text})(?:{re.escape(separator)}.*)?\\Z", re.DOTALL)


def _class(text: str) -> str:
    return re.sub(r"([\\\[\]^&~|])", r"\\\1", text)
