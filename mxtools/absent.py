"""Which calls of a trace no node bears, and why."""

from __future__ import annotations

from mxtools.annotations import Annotations
from mxtools.graph import Graph
from mxtools.hierarchy import ROOT_CALL
from mxtools.sidecar import Sidecar

VACUOUS = "vacuous"
UNUSED = "unused"
FOLDED = "folded"


def absent_scopes(graph: Graph, annotations: Annotations) -> dict[str, str]:
    """Give the scopes of the trace that no node bears, itself or below it, each with its reason; empty without a trace.

    Reasons: `vacuous`, the call returns just what it was given; `merged: SCOPE`, a node of SCOPE does its work too;
    `unused`, no call and not the model itself takes what it returns; else `folded`, the exporter made a constant of it or left it out.
    """
    hierarchy = annotations.hierarchy
    if not hierarchy.sidecar:
        return {}
    borne = {ROOT_CALL}
    for call in {call for call in annotations.call if call is not None}:
        for ancestor in hierarchy.lineage(call):
            if ancestor in borne:
                break
            borne.add(ancestor)
    merged: dict[int, int] = {}
    for node, calls in annotations.merged.items():
        into = annotations.call[node]
        if into is not None:
            merged.update({call: into for call in calls if call != into})
    used = _used(hierarchy.sidecar)
    return {
        hierarchy.scopes[call]: f"merged: {hierarchy.scopes[merged[call]]}" if call in merged else _reason(hierarchy.sidecar, call, used)
        for call in range(len(hierarchy))
        if call not in borne
    }


def _reason(sidecar: Sidecar, call: int, used: list[set[int]]) -> str:
    record = sidecar.calls[call]
    returned = {tensor.id for tensor in record.outputs}
    if returned <= {tensor.id for tensor in record.inputs}:
        return VACUOUS
    return FOLDED if returned & used[call] else UNUSED


def _used(sidecar: Sidecar) -> list[set[int]]:
    """Give for each call the ids of tensors that its caller was seen to pass on: to another call, or as its own result.

    What a caller computes with a tensor itself is not seen, so a caller with no other trace of it counts as using it.
    """
    passed: list[set[int]] = [set() for _ in sidecar.calls]
    for call in sidecar.calls:
        if call.parent is not None:
            passed[call.parent].update(tensor.id for tensor in call.inputs)
    for number, call in enumerate(sidecar.calls):
        passed[number].update(tensor.id for tensor in call.outputs)
    return [passed[c.parent] if c.parent is not None else passed[0] for c in sidecar.calls]
