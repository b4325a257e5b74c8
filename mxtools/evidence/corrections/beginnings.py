"""A call of which nobody knows where it begins gets no nodes.

    ids ─ Gather ─ MatMul ─ Tanh ─ MatMul ─ Add ─ y       known, by the name of the result: Add is `head`
            ?         ?       ?       ?      head         the model ran emb(ids) -> 1, enc(1) -> 2, head(2) -> y

Names and recorded values say nothing of most nodes in such a file. Data flow gives all that leads to the Add to `head`.
This cannot be right: no path leads from `ids` to tensor 2 but through `enc`, which has no nodes. So some of these nodes
are those of `enc`, but it is unknown which. They all go to what is around `head`, since a part that has the whole model
in it, or only the last node of `head`, would not compute what `head` did.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from mxtools.evidence.absent import absent_scopes, calls_with_nodes, is_vacuous, unfound_scopes
from mxtools.graph.walk import reached
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes.annotations import Annotations, Evidence
from mxtools.scopes.hierarchy import ROOT_CALL
from mxtools.traces.traced_calls import unseen_tensors

if TYPE_CHECKING:
    from mxtools.traces.sidecar import Sidecar


def release_unbounded(model: WorkingModel) -> None:
    """Take the nodes away from calls that begin at inputs of the graph, if what they were given was made by others.

    Only if many calls have no nodes: otherwise those before it were merged or do nothing.
    """
    sidecar, annotations = model.traced, model.annotations
    beginning = _beginning(annotations) if sidecar and not model.previous else set[int]()
    if not sidecar or not beginning:
        return
    if not unfound_scopes(annotations, sidecar, absent_scopes(annotations, sidecar)):
        return
    hierarchy = annotations.hierarchy
    released = _beyond(annotations, sidecar) & hierarchy.with_callers(beginning)
    for call in hierarchy.outermost(released):
        nodes = [n for n, at in enumerate(annotations.call) if at is not None and hierarchy.within(at, call)]
        around = hierarchy.parent[call]
        annotations.set_all(nodes, around, Evidence.ROOT if around == ROOT_CALL else Evidence.DATAFLOW)


def _beginning(annotations: Annotations) -> set[int]:
    """Return the calls that begin at inputs of the graph, as far as only data flow gives them the nodes there."""
    graph, called = annotations.graph, annotations.call
    inputs = {value for value in graph.inputs if value not in graph.stored}
    nodes = [n for n in graph.main if annotations.evidence[n] is Evidence.DATAFLOW]
    return {call for n in nodes if (call := called[n]) and not inputs.isdisjoint(graph.live_reads(n))}


def _beyond(annotations: Annotations, sidecar: Sidecar) -> set[int]:
    """Return the calls with nodes to which no path leads from the model's inputs but through calls without nodes.

    Calls that were merged into others, or that did nothing, count as if they had nodes.
    """
    passing = {number for number, call in enumerate(sidecar.calls) if is_vacuous(call)}
    merged = set().union(*annotations.merged.values(), annotations.equal)
    placed = calls_with_nodes(annotations) | passing | merged
    following: dict[int, list[int]] = defaultdict(list)
    for operation in sidecar.operations:
        for read in operation.inputs if operation.call in placed else ():
            following[read] += operation.outputs
    for number in placed:
        call = sidecar.calls[number]
        for tensor in call.inputs:
            following[tensor.id] += (output.id for output in call.outputs)
    starts = (tensor.id for tensor in sidecar.calls[ROOT_CALL].inputs)
    found = reached([*starts, *unseen_tensors(sidecar)], following.__getitem__)
    near = {ROOT_CALL, *(o.call for o in sidecar.operations if not found.keys().isdisjoint(o.inputs))}
    near |= {number for number in placed if any(tensor.id in found for tensor in sidecar.calls[number].inputs)}
    return placed - passing - annotations.hierarchy.with_callers(near)
