"""Auxiliary nodes that compute an argument of a module belong outside of that module.

    x ─ Neg ─ Tanh ─h─ Transpose ─t─ Relu ─ Exp ─ y         x, h: 2x8    t, y: 8x2
        enc   enc         ?          dec    dec

Nothing says directly where the Transpose belongs. Data flow alone gives an auxiliary node to its reader (`dec`). This
is right for most constants and shape chains, but wrong here: the trace says that `dec` was given a tensor of 8x2. So
the Transpose ran before `dec` began, in the caller of `dec`, the root.

The shapes show it: what the node makes has the shape of an argument of `dec`, and what it reads does not. If it does
not have exactly that shape, as many elements are enough, for both. Then the node moves out, to the innermost call that
returned such a tensor and that made, or was given, what the node reads. If there is none, it moves to the lowest common
ancestor of the node's sources and the caller.

torch.export sometimes says that a node which only gives a tensor another shape, such as a Flatten, belongs to its
reader. There, too, the shapes decide, and must be exactly those of the argument.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from mxtools.graph.index import NOWHERE, Graph
from mxtools.graph.shapes import TensorShape
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes.annotations import Evidence
from mxtools.traces.traced_calls import calls_returning

if TYPE_CHECKING:
    from mxtools.traces.sidecar import TracedTensor

_DOUBTFUL = frozenset({Evidence.DATAFLOW, Evidence.METADATA})


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
        if word not in _DOUBTFUL or not call or graph.owner[node] != NOWHERE:
            continue
        if word is Evidence.METADATA and not _only_moves_elements(graph, node):
            continue
        if call in {calls[source] for source in graph.sources(node)}:  # it works on what the module itself made
            continue
        live = [v for v in graph.reads[node] if graph.producer[v] != NOWHERE and v not in graph.constant]
        sources = {at for v in live if (at := calls[graph.producer[v]]) is not None}
        if not sources or any(hierarchy.within(at, call) for at in sources):
            continue
        shapes, given = model.shapes, sidecar.calls[call].inputs
        made = [shapes[v] for v in graph.writes[node]]
        is_exact = word is Evidence.METADATA or _fitting(given, made, TensorShape.agrees)
        fits = TensorShape.agrees if is_exact else TensorShape.fits
        arguments, reads = _fitting(given, made, fits), [shapes[v] for v in live]
        is_known = is_exact or all(shape and shape.dims is not None for shape in reads)
        if arguments and is_known and not _fitting(given, reads, fits):
            returning = [at for tensor in arguments for at in returned_by.get(tensor.id, ())]
            around = [
                at
                for at in returning
                if all(hierarchy.within(source, at) for source in sources)
                or all(_fitting(sidecar.calls[at].inputs, [shape], fits) for shape in reads)
            ]
            outside = hierarchy.common({*sources, hierarchy.parent[call]})
            annotations.set(node, max(around, key=hierarchy.depth.__getitem__, default=outside), Evidence.DATAFLOW)


def _only_moves_elements(graph: Graph, node: int) -> bool:
    operator = graph.operators[node]
    return operator.keeps_elements or operator.is_named("Transpose")


def _fitting(
    given: Iterable[TracedTensor],
    shapes: Iterable[TensorShape | None],
    fits: Callable[[TensorShape, TracedTensor], bool],
) -> list[TracedTensor]:
    """Return those tensors of a call that one of the shapes fits."""
    known = [shape for shape in shapes if shape and shape.dims is not None]
    return [tensor for tensor in given if any(fits(shape, tensor) for shape in known)]
