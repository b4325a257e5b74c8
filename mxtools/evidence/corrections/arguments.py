"""Auxiliary nodes that compute an argument of a module belong outside of that module.

    x ─ Neg ─ Tanh ─h─ Transpose ─t─ Relu ─ Exp ─ y         x, h: 2x8    t, y: 8x2
        enc   enc         ?          dec    dec

Nothing says directly where the Transpose belongs. Data flow alone gives an auxiliary node to its reader (`dec`). This
is right for most constants and shape chains, but wrong here: the trace says that `dec` was given a tensor of 8x2. So
the Transpose ran before `dec` began, in the caller of `dec`, the root.

The shapes show it: what the node makes has the shape of an argument of `dec`, and what it reads does not. Then the node
moves out, to the innermost call that returned such a tensor, or else to the lowest common ancestor of the node's
sources and the caller.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from mxtools.graph.index import NOWHERE
from mxtools.graph.shapes import TensorShape
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes.annotations import Evidence
from mxtools.traces.traced_calls import calls_returning

if TYPE_CHECKING:
    from mxtools.traces.sidecar import TracedTensor


def move_arguments_out(model: WorkingModel) -> None:
    """Move each node that computes an argument of its module out of that module.

    The nodes are visited along the data flow, so a chain moves from its beginning on. Does nothing without a trace,
    since the trace says what each call was given.
    """
    graph, annotations = model.graph, model.annotations
    hierarchy = annotations.hierarchy
    if not model.traced:
        return
    calls, sidecar, returned_by = annotations.call, model.traced, calls_returning(model.traced)
    for node, word in enumerate(annotations.evidence):
        call = calls[node]
        if word is not Evidence.DATAFLOW or not call or graph.owner[node] != NOWHERE:
            continue
        if call in {calls[source] for source in graph.sources(node)}:  # it works on what the module itself made
            continue
        live = [v for v in graph.reads[node] if graph.producer[v] != NOWHERE and v not in graph.constant]
        sources = {at for v in live if (at := calls[graph.producer[v]]) is not None}
        if not sources or any(hierarchy.within(at, call) for at in sources):
            continue
        shapes, given = model.shapes, sidecar.calls[call].inputs
        arguments = _fitting(given, (shapes[v] for v in graph.writes[node]))
        if arguments and not _fitting(given, (shapes[v] for v in live)):
            returning = [at for tensor in arguments for at in returned_by.get(tensor.id, ())]
            around = [at for at in returning if all(hierarchy.within(source, at) for source in sources)]
            outside = hierarchy.common({*sources, hierarchy.parent[call]})
            annotations.set(node, max(around, key=hierarchy.depth.__getitem__, default=outside), Evidence.DATAFLOW)


def _fitting(given: Iterable[TracedTensor], shapes: Iterable[TensorShape | None]) -> list[TracedTensor]:
    """Return those tensors of a call that have one of the shapes."""
    known = [shape for shape in shapes if shape and shape.dims is not None]
    return [tensor for tensor in given if any(shape.fits(tensor) for shape in known)]
