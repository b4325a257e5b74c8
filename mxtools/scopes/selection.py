"""Selectors, from text to nodes: globs over scopes and tags, class names and operators, the same in every command.

A scope selects itself and everything below it. `*`, `?` and `[…]` match within one level, `**` across levels. A
`Selection` has the selectors, `calls_of` returns the calls that they select, and `nodes_of` the nodes of calls.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import chain

from mxtools.errors import AbsentError, UsageError, suggestion
from mxtools.graph.index import NOWHERE, Graph
from mxtools.graph.walk import reached
from mxtools.scopes.annotations import INDIRECT, WITHOUT, Annotations
from mxtools.scopes.hierarchy import ROOT_CALL
from mxtools.scopes.places import MAIN, Place, Places
from mxtools.scopes.scope import ROOT, enclosing_scopes
from mxtools.scopes.tags import class_of


@dataclass(frozen=True)
class Selection:
    """What to select: everything that any of the scopes, tags or classes selects, without the excluded scopes."""

    scopes: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    @property
    def is_positive(self) -> bool:
        """Whether there is a selector, and not only an exclusion; without a selector, everything is selected."""
        return bool(self.scopes or self.tags or self.classes)

    def matching_scopes(self, known: dict[str, str], absent: dict[str, str]) -> set[str]:
        """Return the selected scopes of a model: `known` maps its scopes to their tags, `absent` to reasons.

        If a selector matches nothing, raises AbsentError if it names a module that the exporter removed, otherwise
        UsageError with the nearest scopes.
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
    """Return the selected calls, each with all calls below it that have nodes.

    Raises UsageError if a selector matches nothing. Raises AbsentError if it names an absent module, or a module that
    ends inside a merged node which also does the work of modules that are not selected, or lacks a result.
    """
    calls = selected_calls(annotations, selection)
    _refuse_partial(annotations, calls)
    return calls


def selected_calls(annotations: Annotations, selection: Selection) -> set[int]:
    """Return the selected calls, even those that end inside a merged node; otherwise raises what `calls_of` raises."""
    hierarchy, absent = annotations.hierarchy, annotations.absent
    with_nodes = {call for call in annotations.call if call is not None}
    known = hierarchy.with_callers(with_nodes)
    known |= set(chain(*annotations.merged.values()))
    known = {call for call in known if hierarchy.scopes[call] not in absent} | annotations.equal.keys()
    scopes = selection.matching_scopes({hierarchy.scopes[c]: hierarchy.tags[c] for c in known}, absent)
    return {call for call in known if hierarchy.scopes[call] in scopes}


def separate_calls(
    annotations: Annotations,
    selections: Iterable[Selection],
    depth: int | None,
    exclude: tuple[str, ...],
) -> dict[int, set[int]]:
    """Return the outermost calls of all selections, each with the calls in it that are not excluded.

    `depth` adds the calls on that level below the root, and calls above it that have none inside. Raises UsageError if
    one of the calls lies in another, AbsentError if one ends inside a merged node, or the graph lacks a result of it.
    """
    hierarchy = annotations.hierarchy
    chosen = calls_at_depth(annotations, depth) if depth is not None else set[int]()
    for selection in selections:
        chosen.update(_without_equal(annotations, hierarchy.outermost(calls_of(annotations, selection))))
    kept = calls_of(annotations, Selection(exclude=exclude)) - annotations.equal.keys()
    outermost: dict[int, int] = {}
    for call in sorted(kept):  # parents come before children
        outer = outermost.get(hierarchy.parent[call])
        if outer is not None and call in chosen:
            names = hierarchy.scopes[call], hierarchy.scopes[outer]
            raise UsageError(f"{names[0]} is inside {names[1]}, and both are selected", "select one of them")
        if outer is not None or call in chosen:
            outermost[call] = call if outer is None else outer
    groups: dict[int, set[int]] = {}
    for call, outer in outermost.items():
        groups.setdefault(outer, set()).add(call)
    for calls in groups.values():
        _refuse_partial(annotations, calls)
    return groups


def _without_equal(annotations: Annotations, calls: list[int]) -> list[int]:
    """Return the calls except for those whose work is done elsewhere; AbsentError if no others are left."""
    kept = [call for call in calls if call not in annotations.equal]
    if calls and not kept:
        scope = annotations.hierarchy.scopes[calls[0]]
        raise _removed(scope, annotations.absent[scope])
    return kept


def calls_at_depth(annotations: Annotations, depth: int) -> set[int]:
    """Return the calls on a level below the root, and childless ones above, that have nodes in the main graph."""
    hierarchy, graph = annotations.hierarchy, annotations.graph
    with_nodes = {call for n in graph.main if (call := annotations.call[n]) is not None}
    known = hierarchy.with_callers(with_nodes)
    parents = {hierarchy.parent[call] for call in known}
    return {c for c in known if hierarchy.depth[c] == depth or (hierarchy.depth[c] < depth and c not in parents)}


def nodes_of(annotations: Annotations, calls: Collection[int]) -> set[int]:
    """Return the nodes of the main graph in some calls.

    Raises UsageError if there are none, AbsentError if they are in a body or function that is not selected as a whole.
    """
    return nodes_of_each(annotations, {0: calls})[0]


def nodes_of_each(annotations: Annotations, groups: Mapping[int, Collection[int]]) -> dict[int, set[int]]:
    """Return for each group of calls what `nodes_of` returns, but going through all nodes only once."""
    by_call: dict[int | None, list[int]] = {}
    for node, call in enumerate(annotations.call):
        by_call.setdefault(call, []).append(node)
    for node, equal in annotations.equal_at.items():
        for call in equal:
            by_call.setdefault(call, []).append(node)
    found = {}
    for key, calls in groups.items():
        doing = annotations.calls_with_work_of(calls)
        found[key] = _in_main(annotations, {n for call in doing for n in by_call.get(call, ())})
    return found


def _in_main(annotations: Annotations, nodes: set[int]) -> set[int]:
    """Return those of the nodes that are in the main graph, to be cut out; raises what `nodes_of` raises."""
    if not nodes:
        raise UsageError("no node is selected", "see ⟨tree⟩")
    graph = annotations.graph
    place, deciding = place_of(annotations, nodes)
    if place:
        around = annotations.hierarchy.common(call for n in deciding if (call := annotations.call[n]) is not None)
        scope = annotations.hierarchy.scopes[around]
        where = annotations.places.text(place)
        raise AbsentError(f"{scope} is in {where}", "select a module that contains it all, or cut it out with ⟨filter⟩")
    return {n for n in nodes if not graph.region[n] and graph.owner[n] == NOWHERE}


def nodes_anywhere(annotations: Annotations, calls: Collection[int], operators: Collection[str] = ()) -> set[int]:
    """Return the nodes that do the work of some calls, even in bodies and functions; UsageError if there are none."""
    nodes = annotations.graph.nodes
    doing: set[int | None] = {*annotations.calls_with_work_of(calls)}
    if ROOT_CALL in doing:  # the whole model also has the nodes without a scope
        doing.add(None)
    found = {
        n
        for n, call in enumerate(annotations.call)
        if (call in doing or not doing.isdisjoint(annotations.equal_at.get(n, ())))
        and (not operators or nodes[n].op_type in operators)
    }
    if not found and operators:
        kinds = sorted({nodes[n].op_type for n, call in enumerate(annotations.call) if call in doing})
        near = suggestion(next(iter(operators)), kinds)
        raise UsageError(f"no selected node is a {' or '.join(operators)}", f"{near} (see ⟨tree⟩)")
    if not found:
        raise UsageError("everything that is selected is excluded, too", "exclude less")
    return found


def place_of(annotations: Annotations, nodes: Collection[int]) -> tuple[Place, set[int]]:
    """Return the place where some nodes can be cut out, and the nodes that decide it.

    It is the innermost graph of any of the nodes; the graphs of the others must be around it. Nodes inside other
    selected nodes do not count. If anything else is selected, two kinds of nodes that say least do not count either:
    constants, which are copied to where they are read, and nodes whose scope comes from data flow alone. Raises
    AbsentError if the nodes are in several bodies, or in a function that several nodes call.
    """
    graph, places = annotations.graph, annotations.places
    found = _outermost(places, nodes) or dict.fromkeys(nodes)  # if all are in functions that nothing calls
    counted = {n for n in found if annotations.evidence[n] not in INDIRECT and not graph.is_constant(n)}
    counted = counted or {n for n, place in found.items() if place == MAIN} or set(found)
    innermost: Place = MAIN
    for node in sorted(counted):
        place, scope = found[node], annotations.hierarchy.scopes[annotations.call[node] or 0]
        if place is None:
            called = {graph.nodes[site].op_type for site in graph.sites.get(graph.region[node], ())}
            where = f"the function {called.pop()!r}" if called else "a function"
            raise AbsentError(
                f"{scope} is in {where}, which is called several times or never",
                "select the module that calls it",
            )
        short, long = sorted((place, innermost), key=len)
        if long[: len(short)] != short:
            raise AbsentError(
                f"{scope} is in {places.text(innermost)} and in {places.text(place)}",
                "select a module that contains both, or choose one with ⟨from-tensor⟩ and ⟨to-tensor⟩",
            )
        innermost = long
    return innermost, counted


def _outermost(places: Places, nodes: Collection[int]) -> dict[int, Place | None]:
    """Return the places of those nodes that none of the other nodes contains or calls."""
    graph = places.graph
    found = {node: places.of(node) for node in nodes}
    outermost: dict[int, Place | None] = {}
    outermost |= {n: p for n, p in found.items() if p is not None and not any(holder in found for holder, _ in p)}
    loose = {n for n, place in found.items() if place is None}
    if loose:  # they come along if a selected node calls their function, or if nothing else does
        callers = {site for sites in graph.sites.values() for site in sites if not graph.region[site]}
        inside = {s for s in callers if s in found or any(holder in found for holder, _ in places.of(s) or ())}
        here, elsewhere = _called(graph, inside), _called(graph, callers - inside)
        outermost.update((n, None) for n in loose if graph.region[n] in elsewhere - here)
    return outermost


def _called(graph: Graph, callers: set[int]) -> set[int]:
    """Return the regions of the functions that some nodes call, directly or through other functions."""
    calls: dict[int, set[int]] = defaultdict(set)
    for region, sites in graph.sites.items():
        for site in sites:
            calls[graph.region[site]].add(region)
    starts = (region for region, sites in graph.sites.items() if not callers.isdisjoint(sites))
    return set(reached(starts, lambda region: calls[region]))


def _refuse_partial(annotations: Annotations, calls: set[int]) -> None:
    """Raise AbsentError if the nodes of a selected call are not all of it, and no call around it is selected.

    It ends inside a merged node of a call that is not selected, or the graph lacks something of it.
    """
    hierarchy = annotations.hierarchy
    doing = annotations.calls_with_work_of(calls)
    outermost = annotations.calls_with_work_of(hierarchy.outermost(calls))
    for node in annotations.merged:
        ending = outermost.intersection(annotations.ending_in(node))
        if ending and annotations.call[node] not in doing:
            proto = annotations.graph.nodes[node]
            raise AbsentError(
                f"{hierarchy.scopes[min(ending)]} ends inside {proto.op_type} {proto.name!r}, which does the work of "
                f"{hierarchy.scopes[annotations.call[node] or 0]} too",
                "select that, or export with ⟨keep-modules⟩",
            )
    if lacking := sorted(outermost & annotations.incomplete.keys()):
        scope, text = hierarchy.scopes[lacking[0]], annotations.incomplete[lacking[0]]
        missing = text.removeprefix(WITHOUT)
        raise AbsentError(
            f"only {text} results of {scope} are in this graph"
            if missing == text
            else f"{scope} begins or ends with {missing}, which no node of this graph is known to be",
            "select the module that calls it, or export with ⟨keep-modules⟩",
        )


def _by_scope(pattern: str, known: dict[str, str], absent: dict[str, str]) -> set[str]:
    if pattern == ROOT:
        return set(known)
    matches = _matcher(pattern, ".")
    near = [scope for scope in known if matches(scope) and (scope != ROOT or "**" in pattern)]
    found = {scope for scope in near if _is_below(scope, pattern, known)}
    if not found:
        removed = [scope for scope in absent if matches(scope)]
        if removed:
            raise _removed(removed[0], absent[removed[0]])
        raise _no_match("scope", pattern, _with_ancestors(known))
    return found


def _is_below(scope: str, pattern: str, known: dict[str, str]) -> bool:
    """Return whether a glob matches a scope or one around it in its text, unless that one did not make the call.

    Three calls: `block` calls `block.norm`; then the root calls it too, as `block.norm@1`. The glob `block` matches the
    beginning of both, but only the first is below `block`. The tags show this: `/Net/Block/Norm` and
    `/Net/Norm.norm@1`.
    """
    matches = _exact_matcher(pattern, ".")
    return any(
        matches(around) and (around == scope or around not in known or known[scope].startswith(known[around] + "/"))
        for around in (*enclosing_scopes(scope), scope)
    )


def _by_tag(pattern: str, known: dict[str, str]) -> set[str]:
    matches = _matcher(pattern, "/")
    found = {scope for scope, tag in known.items() if matches(tag)}
    if not found:
        raise _no_match("tag", pattern, known.values())
    return found


def _by_class(name: str, known: dict[str, str]) -> set[str]:
    levels = {scope: [class_of(level) for level in tag.split("/")[1:]] for scope, tag in known.items()}
    found = {scope for scope in known if name in levels[scope]}
    if not found:
        raise _no_match("class", name, {c for classes in levels.values() for c in classes})
    return found


def _removed(scope: str, reason: str) -> AbsentError:
    """Return the error for a module that the exporter removed; `reason` has the form of `pkg.mxtools.absent`."""
    word, _, into = reason.partition(": ")
    caller = "select the module that calls it"
    why, remedy = {
        "merged": (f"it is merged into {into}", "select that, or export with ⟨keep-modules⟩"),
        "folded": ("it is folded into constants", "export with ⟨keep-modules⟩"),
        "unused": ("no output of this graph is computed with it", f"{caller}, or take the whole model"),
        "vacuous": ("it returns what it was given, at most reshaped", caller),
    }.get(word, (reason, caller))
    return AbsentError(f"{scope} has no node in this graph: {why}", remedy)


def _no_match(what: str, wanted: str, known: Iterable[str]) -> UsageError:
    """Return the error for a selector that matches nothing: by `what` it selects, and which texts exist."""
    problem, names = f"no node has a {what} that matches {wanted!r}", set(known)
    if what == "scope" and wanted.startswith("/"):
        return UsageError(problem, "select it by ⟨by-tag⟩, as tags begin with '/'")
    if names.issuperset(wanted.split(",")):
        return UsageError(problem, "give each of them by itself, without commas")
    near = suggestion(wanted.replace("*", ""), sorted(names), 0.5)
    return UsageError(problem, f"{near} (see ⟨tree⟩)")


def _with_ancestors(scopes: Iterable[str]) -> set[str]:
    """Return scopes with all scopes that they lie in; the root only if it is one of them."""
    return {around for scope in scopes for around in (scope, *enclosing_scopes(scope))}


@cache
def _matcher(pattern: str, separator: str) -> Callable[[str], object]:
    """Return a function that tests whether a path matches a glob, or lies below one that does."""
    return re.compile(f"(?:{_expression(pattern, separator)})(?:{re.escape(separator)}.*)?\\Z", re.DOTALL).match


@cache
def _exact_matcher(pattern: str, separator: str) -> Callable[[str], object]:
    """Return a function that tests whether a path matches a glob."""
    return re.compile(f"(?:{_expression(pattern, separator)})\\Z", re.DOTALL).match


@cache
def _expression(pattern: str, separator: str) -> str:
    r"""Return a glob as the text of a regular expression.

    Python's `fnmatch` knows no levels: its `*` would match `layer.1.attention` if one level is meant. Instead, with
    the separator `.`, each piece of the glob is translated by itself:

        encoder.*.attn  ->  encoder\.[^\.]*\.attn
        **.q[!ab]       ->  .*\.q[^ab]
    """
    one_character = f"[^{re.escape(separator)}]"
    text, position = "", 0
    while position < len(pattern):
        bracket = _SET.match(pattern, position)
        if pattern.startswith("**", position):  # more of them say no more, and would be tried in all ways
            stars = len(pattern) - position - len(pattern[position:].lstrip("*"))
            text, position = text + ".*", position + stars
        elif bracket:
            text += f"[{'^' if bracket[1] else ''}{_escaped_set(bracket[2])}]"
            position = bracket.end()
        else:
            character = pattern[position]
            text += {"*": one_character + "*", "?": one_character}.get(character, re.escape(character))
            position += 1
    return text


_SET = re.compile(r"\[(!?)(\]?[^\]]*)\]")
"""A set of characters in a glob: `[ab]`, `[!ab]`, and `[]]`, since a bracket that comes first belongs to the set."""


def _escaped_set(characters: str) -> str:
    """Return the characters of a set; those with another meaning in a regular expression's set are escaped."""
    return re.sub(r"([\\\[\]^&~|])", r"\\\1", characters)
