"""Nodes of functions that the trace did not see belong to the caller of the module that was given their result.

    x ─ Conv ─u─ Tanh ─ Mul ─v─ Conv ─ y         enc ran inner(x) -> 1, then a compiled function of 1 -> 2, last(2) -> 3
        inner     ?      ?      last

A function that `torch.jit.script` compiled runs operations that the trace does not have, and TorchScript gives no names
to its nodes. Data flow alone gives them to their reader (`last`). This is wrong: `last` was given tensor 2, of which
nobody knows who made it, and not tensor 1, which `inner` returned. So the Tanh, which reads it, ran before `last`, and
so did everything up to what `last` can have been given.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from mxtools.graph.index import NOWHERE
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes.annotations import Evidence
from mxtools.traces.traced_calls import callers, returned_tensors, unseen_tensors

if TYPE_CHECKING:
    from mxtools.traces.sidecar import Sidecar, TracedTensor


def move_unseen_out(model: WorkingModel) -> None:
    """Move the nodes that made what a call was given out of it, if nothing in the trace made that."""
    sidecar, annotations = model.traced, model.annotations
    unseen = unseen_tensors(sidecar) if sidecar else set[int]()
    if sidecar is None or not unseen:
        return
    nodes: dict[int | None, list[int]] = defaultdict(list)
    for node in model.graph.main:
        nodes[annotations.call[node]].append(node)
    had = _had(sidecar)
    for call in range(len(sidecar.calls) - 1, 0, -1):  # the inner ones first
        given = [tensor for tensor in sidecar.calls[call].inputs if tensor.id in unseen]
        if given and nodes[call]:
            moved = _before(model, sidecar, call, nodes[call], given, had[call])
            outside = annotations.hierarchy.parent[call]
            annotations.set_all(moved, outside, Evidence.DATAFLOW)
            nodes[outside] = sorted({*nodes[outside], *moved})


def _had(sidecar: Sidecar) -> dict[int, set[int]]:
    """Return for each call the tensors that it was given, or that operations read while it ran."""
    had: dict[int, set[int]] = defaultdict(set)
    for number, call in enumerate(sidecar.calls):
        had[number].update(tensor.id for tensor in call.inputs)
    for operation in sidecar.operations:
        for at in (operation.call, *callers(sidecar.calls, operation.call)):
            had[at].update(operation.inputs)
    return had


def _before(
    model: WorkingModel, sidecar: Sidecar, call: int, own: list[int], given: list[TracedTensor], had: set[int]
) -> set[int]:
    """Return those nodes of a call that ran before it: from those that read what it did not have, to what it had.

    `own` has the nodes of the call, `given` the tensors that it was given and nothing made, `had` all that it had.
    There are none if their results cannot be those tensors.
    """
    graph, annotations, shapes = model.graph, model.annotations, model.shapes
    within, place = annotations.hierarchy.within, annotations.call

    def is_foreign(value: int) -> bool:
        """Return whether another call returned a value, which this call did not have."""
        maker, shape = graph.producer[value], shapes[value]
        at = None if maker == NOWHERE else place[maker]
        if at is None or shape is None or within(at, call) or within(call, at):
            return False
        fitting = {tensor.id for tensor in returned_tensors(sidecar.calls[at]) if shape.fits(tensor)}
        return bool(fitting) and fitting.isdisjoint(had)

    open_ = [node for node in own if annotations.evidence[node] is Evidence.DATAFLOW]
    found = set[int]()
    for node in open_:
        if not found.isdisjoint(graph.sources(node)) or any(map(is_foreign, graph.live_reads(node))):
            found.add(node)
    results = [v for n in found for v in graph.writes[n] if not found.issuperset(graph.readers[v])]
    made = [shape for v in results if (shape := shapes[v])]
    is_fitting = all(any(shape.fits(tensor) for tensor in given) for shape in made)
    if not is_fitting or not len(results) == len(made) <= len(given):
        return set()
    return found.union(n for n in open_ if all(found.issuperset(graph.readers[v]) for v in graph.writes[n]))
