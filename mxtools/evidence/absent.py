"""Which calls of a trace no node bears, and why."""

from __future__ import annotations

from collections.abc import Collection

from mxtools.scopes.annotations import Annotations
from mxtools.scopes.hierarchy import ROOT_CALL
from mxtools.traces.sidecar import Call, Sidecar

VACUOUS = "vacuous"
UNUSED = "unused"
FOLDED = "folded"
MERGED_INTO = "merged: "


def calls_with_nodes(annotations: Annotations) -> set[int]:
    """Give the calls that nodes bear, and those above them."""
    borne = {ROOT_CALL}
    for call in {call for call in annotations.call if call is not None}:
        for ancestor in annotations.hierarchy.lineage(call):
            if ancestor in borne:
                break
            borne.add(ancestor)
    return borne


def absent_scopes(annotations: Annotations, sidecar: Sidecar | None) -> dict[str, str]:
    """Give the scopes of the trace that no node bears, with the reason for each; empty without a trace.

    `merged: SCOPE`, a node there does its work too; `vacuous`, it returned what it was given; `unused`, nobody takes
    what it returned; else `folded`, it is a constant.
    """
    hierarchy = annotations.hierarchy
    if not sidecar:
        return {}
    borne = calls_with_nodes(annotations)
    merged = _merged_into(annotations)
    calls = sidecar.calls
    passed = {t.id for call in calls for t in call.inputs} | {t.id for call in calls[:1] for t in call.outputs}
    live = {t.id for call in borne for t in calls[call].outputs} | {t.id for t in calls[ROOT_CALL].inputs}
    absent = {}
    for number, scope in enumerate(hierarchy.scopes):
        if number in borne:
            continue
        if number in merged:
            absent[scope] = MERGED_INTO + hierarchy.scopes[merged[number]]
        elif is_vacuous(calls[number]):
            absent[scope] = VACUOUS
        else:
            absent[scope] = UNUSED if _is_unused(calls[number], passed, live) else FOLDED
    return absent


def lost_scopes(
    annotations: Annotations, was: Annotations, absent: dict[str, str], passing: Collection[int]
) -> dict[str, str]:
    """Give the scopes that an earlier model knew and no node bears, with the reason for each.

    What was `absent` there keeps its reason; what nodes bore is `merged: SCOPE`, `vacuous` if it is one of those that
    gave just what they were given, `passing`, or `folded`.
    """
    scopes = annotations.hierarchy.scopes
    borne = calls_with_nodes(annotations)
    merged = _merged_into(annotations)
    found = {scope: reason for scope, reason in absent.items() if annotations.hierarchy.find(scope) not in borne}
    for call in sorted(calls_with_nodes(was) - borne):
        other = VACUOUS if call in passing else FOLDED
        found[scopes[call]] = MERGED_INTO + scopes[merged[call]] if call in merged else other
    return found


def _merged_into(annotations: Annotations) -> dict[int, int]:
    """Give the calls that nodes of others do the work of too, with these others."""
    merged: dict[int, int] = {}
    for node, together in annotations.merged.items():
        into = annotations.call[node]
        if into is not None:
            merged.update({call: into for call in together if call != into})
    return merged


def is_vacuous(call: Call) -> bool:
    """Tell whether a call returned just what it was given."""
    given = {tensor.id for tensor in call.inputs}
    values = {tensor.fingerprint for tensor in call.inputs if tensor.fingerprint}
    return all(t.id in given or t.fingerprint in values for t in call.outputs)


def _is_unused(call: Call, passed: set[int], live: set[int]) -> bool:
    """Tell whether nobody was seen to use what a call returned, though it is no constant: it works on live tensors."""
    returned = {tensor.id for tensor in call.outputs}
    return not returned & passed and any(tensor.id in live for tensor in call.inputs)
