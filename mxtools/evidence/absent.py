"""Which calls of a trace have no nodes, and why."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from typing import TYPE_CHECKING

from mxtools.graph.walk import reached
from mxtools.scopes.annotations import FOLDED, INDIRECT, MERGED_INTO, UNUSED, VACUOUS, Annotations
from mxtools.scopes.hierarchy import ROOT_CALL
from mxtools.traces.traced_calls import known_outputs, tensor_sources
from mxtools.traces.values import inner_inputs

if TYPE_CHECKING:
    from mxtools.traces.sidecar import Call, Sidecar


UNFOUND_SHARE = 0.25
"""The share of calls whose work the graph should have and no node does, above which a trace fits badly.

Of a model that was exported, it is at most a sixteenth: tables that exporters compute beforehand, such as rotary
embeddings. Of two more layers on three, it is above a third, and of names that say nothing, nearly all.
"""


def calls_with_nodes(annotations: Annotations, passed_over: Collection[int] = ()) -> set[int]:
    """Return the calls that are the scopes of nodes, all calls around them, and the root.

    The nodes that are `passed_over` do not count.
    """
    with_nodes = {call for n, call in enumerate(annotations.call) if call is not None and n not in passed_over}
    return annotations.hierarchy.with_callers({ROOT_CALL, *with_nodes})


def absent_scopes(annotations: Annotations, sidecar: Sidecar | None) -> dict[str, str]:
    """Return the scopes of the trace that have no node, with the reason for each; nothing without a trace.

    The reasons: `merged: SCOPE`, a node of that scope does its work too; `vacuous`, it returned what it was given;
    `unused`, nothing uses what it returned; otherwise `folded`, what it returned is a constant of the graph.
    """
    hierarchy = annotations.hierarchy
    if not sidecar:
        return {}
    with_nodes = calls_with_nodes(annotations)
    merged = _merged_into(annotations) | annotations.equal
    calls = sidecar.calls
    passed = _taken(annotations, sidecar, with_nodes)
    live = _live(sidecar, with_nodes)
    absent = {}
    for number, scope in enumerate(hierarchy.scopes):
        if number in with_nodes:
            continue
        if number in merged:
            absent[scope] = MERGED_INTO + hierarchy.scopes[merged[number]]
        elif is_vacuous(calls[number]):
            absent[scope] = VACUOUS
        else:
            absent[scope] = UNUSED if _is_unused(calls[number], passed, live) else FOLDED
    return absent


def unfound_scopes(annotations: Annotations, sidecar: Sidecar | None, absent: dict[str, str]) -> list[str]:
    """Return the absent scopes that should have nodes, if they are many: then the trace fits the graph badly.

    What such a call returned was used and came from inputs, so that it can hardly be a constant.
    """
    hierarchy = annotations.hierarchy
    if not sidecar or FOLDED not in absent.values() or _is_of_one_module(annotations):
        return []
    with_nodes = calls_with_nodes(annotations)
    live = _live(sidecar, with_nodes)
    found = [
        scope
        for scope, call in zip(hierarchy.scopes, sidecar.calls, strict=False)
        if absent.get(scope) == FOLDED and any(tensor.id in live for tensor in call.inputs)
    ]
    return found if len(found) > UNFOUND_SHARE * (len(found) + len(with_nodes)) else []


def _is_of_one_module(annotations: Annotations) -> bool:
    """Return whether a graph is just a module of the model: all nodes are in it, most by evidence of their own."""
    calls = {call for call in annotations.call if call is not None}
    direct = sum(word not in INDIRECT for word in annotations.evidence)
    return 2 * direct > len(annotations.call) and annotations.hierarchy.common(calls) != ROOT_CALL


def lost_scopes(
    annotations: Annotations,
    earlier: Annotations,
    absent: dict[str, str],
    passing: Collection[int],
    part: Collection[int],
) -> dict[str, str]:
    """Return the scopes that had a place in an earlier model and have no node now, with the reason for each.

    A scope that was `absent` in the earlier model keeps its reason. A scope that had nodes is `merged: SCOPE`, else
    `vacuous` if its call is in `passing` (calls that returned just what they were given), else `unused` if none of its
    nodes is in `part` (earlier nodes that lead to the results of this graph), else `folded`.
    """
    scopes = annotations.hierarchy.scopes
    with_nodes = calls_with_nodes(annotations)
    merged = _merged_into(annotations) | annotations.equal
    found = {scope: reason for scope, reason in absent.items() if annotations.hierarchy.find(scope) not in with_nodes}
    needed = earlier.hierarchy.with_callers({call for node in part if (call := earlier.call[node]) is not None})
    for call in sorted(calls_with_nodes(earlier) - with_nodes):
        other = VACUOUS if call in passing else FOLDED if call in needed else UNUSED
        found[scopes[call]] = MERGED_INTO + scopes[merged[call]] if call in merged else other
    return found


def _merged_into(annotations: Annotations) -> dict[int, int]:
    """Return the calls whose work nodes of other calls do, each with one of those other calls."""
    merged: dict[int, int] = {}
    for node, together in annotations.merged.items():
        into = annotations.call[node]
        if into is not None:
            merged.update({call: into for call in together if call != into})
    return merged


def is_vacuous(call: Call) -> bool:
    """Return whether a call returned just what it was given, by fingerprints and by what the trace says of order."""
    given = {tensor.id for tensor in call.inputs}
    values = {tensor.fingerprint for tensor in call.inputs if tensor.fingerprint}
    return not call.reorders and all(t.id in given or t.fingerprint in values for t in call.outputs)


def _taken(annotations: Annotations, sidecar: Sidecar, with_nodes: Collection[int]) -> Collection[int]:
    """Return the tensors that the graph returns or calls with nodes are given, and all tensors that these came from."""
    root, graph = sidecar.calls[ROOT_CALL], annotations.graph
    returned = known_outputs([graph.names[value] for value in graph.outputs], sidecar)
    known = returned & {tensor.name for tensor in root.outputs}
    is_part = known and len(graph.outputs) < len({tensor.name for tensor in root.outputs})
    ends = [t.id for t in root.outputs if t.name in known or not is_part]
    sources = tensor_sources(sidecar)
    given = (tensor.id for call in with_nodes for tensor in sidecar.calls[call].inputs)
    asked = [graph.names[value] for value in graph.inputs if value not in graph.stored]
    begins = set(inner_inputs(sidecar, asked).values())
    starts = (tensor for tensor in (*ends, *given) if tensor not in begins)
    return set(reached(starts, lambda tensor: sources[tensor] - begins))


def _live(sidecar: Sidecar, with_nodes: Collection[int]) -> Collection[int]:
    """Return the tensors that depend on the inputs of the graph: results of calls with nodes, and what follows."""
    results: dict[int, set[int]] = defaultdict(set)
    for _, _, inputs, outputs in sidecar.operations:
        for tensor in inputs:
            results[tensor].update(outputs)
    begins = [t.id for t in sidecar.calls[ROOT_CALL].inputs]
    made = (tensor.id for call in with_nodes for tensor in sidecar.calls[call].outputs)
    return reached([*begins, *made], lambda tensor: results[tensor])


def _is_unused(call: Call, passed: Collection[int], live: Collection[int]) -> bool:
    """Return whether nothing uses what a call returned, although it was computed from live tensors.

    Then it is not a constant either. `passed` are the tensors that something uses; `live` are those that depend on the
    inputs of the graph.
    """
    returned = {tensor.id for tensor in call.outputs}
    return returned.isdisjoint(passed) and any(tensor.id in live for tensor in call.inputs)
