"""Which calls of a trace no node bears, and why."""

from __future__ import annotations

from mxtools.annotations import Annotations
from mxtools.hierarchy import ROOT_CALL
from mxtools.sidecar import Sidecar

VACUOUS = "vacuous"
FOLDED = "folded"


def borne_calls(annotations: Annotations) -> set[int]:
    """Give the calls that nodes bear, and those above them."""
    borne = {ROOT_CALL}
    for call in {call for call in annotations.call if call is not None}:
        for ancestor in annotations.hierarchy.lineage(call):
            if ancestor in borne:
                break
            borne.add(ancestor)
    return borne


def absent_scopes(annotations: Annotations) -> dict[str, str]:
    """Give the scopes of the trace that no node bears, with the reason for each; empty without a trace."""
    hierarchy = annotations.hierarchy
    if not hierarchy.sidecar:
        return {}
    borne = borne_calls(annotations)
    merged: dict[int, int] = {}
    for node, calls in annotations.merged.items():
        into = annotations.call[node]
        if into is not None:
            merged.update({call: into for call in calls if call != into})
    return {
        scope: f"merged: {hierarchy.scopes[merged[call]]}" if call in merged else reason(hierarchy.sidecar, call)
        for call, scope in enumerate(hierarchy.scopes)
        if call not in borne
    }


def reason(sidecar: Sidecar, call: int) -> str:
    """Say why a call that is merged nowhere has no node: `vacuous`, it returned what it was given; else `folded`."""
    record = sidecar.calls[call]
    given = {tensor.id for tensor in record.inputs}
    values = {tensor.fingerprint for tensor in record.inputs if tensor.fingerprint}
    return VACUOUS if all(t.id in given or t.fingerprint in values for t in record.outputs) else FOLDED
