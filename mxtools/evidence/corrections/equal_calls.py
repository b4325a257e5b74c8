"""Calls that do the same work on the same tensors, so that the exporter computed only one of them.

    t ─ Sigmoid ─ Mul ─s─┬─ Gemm ─        blocks.0.time
        ───────────────  └─ Gemm ─        blocks.1.time
        blocks.0.act

    PyTorch ran: blocks.0.act on t, blocks.0.time on s; blocks.1.act on t, blocks.1.time on an equal s

The exporter sees that Sigmoid and Mul exist already. So `blocks.1.act` has no node, although the nodes of
`blocks.0.act` do its work. The obvious rule, that a module without nodes was folded into its neighbour, would make it a
part of `blocks.1.time`, and a cut of `blocks.1` would begin in the middle.

A call without nodes is equal to one with nodes if both did equal work (`evidence/calls/equal_work`). Then the calls
inside them are equal too, one by one.
"""

from __future__ import annotations

from collections.abc import Hashable

from mxtools.evidence.absent import calls_with_nodes, is_vacuous
from mxtools.evidence.calls.equal_work import EqualWork
from mxtools.pipeline.working_model import WorkingModel


def find_equal_calls(model: WorkingModel) -> None:
    """Note for each call without nodes the equal call whose nodes do its work.

    Does nothing without a trace, since the trace says what each call was given and returned.
    """
    annotations, sidecar = model.annotations, model.traced
    if not sidecar:
        return
    with_nodes = calls_with_nodes(annotations)
    without = [c for c, call in enumerate(sidecar.calls) if c not in with_nodes and not is_vacuous(call)]
    if not without:
        return
    work = EqualWork(sidecar)
    first: dict[Hashable, int] = {}
    for call in sorted(with_nodes):
        first.setdefault(work.of(call), call)
    for call in without:
        equal = first.get(work.of(call))
        if equal is not None and call not in annotations.equal:
            annotations.equal.update(work.pairs(call, equal))
