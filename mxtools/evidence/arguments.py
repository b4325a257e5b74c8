"""Auxiliary nodes that make what a module was given belong outside of it."""

from __future__ import annotations

from collections.abc import Iterable

from mxtools.graph.index import NOWHERE
from mxtools.graph.shapes import Shaped
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes.annotations import Evidence
from mxtools.traces.sidecar import Tensor, makers


def move_arguments_out(model: WorkingModel) -> None:
    """Move each such node to the innermost call that returned what it makes, else to where its sources are.

    Along the data flow, so that a chain moves from its beginning. Needs a trace, which tells what each call was
    given; without one nothing is done.
    """
    graph, annotations = model.graph, model.annotations
    hierarchy = annotations.hierarchy
    if not model.traced:
        return
    calls, sidecar, makers_ = annotations.call, model.traced, makers(model.traced)
    for node, word in enumerate(annotations.evidence):
        call = calls[node]
        if word is not Evidence.DATAFLOW or not call or graph.owner[node] != NOWHERE:
            continue
        if call in {calls[source] for source in graph.sources(node)}:
            continue
        live = [v for v in graph.reads[node] if graph.producer[v] != NOWHERE and v not in graph.constant]
        sources = {at for v in live if (at := calls[graph.producer[v]]) is not None}
        if not sources or any(hierarchy.within(at, call) for at in sources):
            continue
        shapes, given = model.shapes, sidecar.calls[call].inputs
        made = _fitting(given, (shapes[v] for v in graph.writes[node]))
        if made and not _fitting(given, (shapes[v] for v in live)):
            homes = [at for tensor in made for at in makers_.get(tensor.id, ())]
            around = [at for at in homes if all(hierarchy.within(s, at) for s in sources)]
            outside = hierarchy.common({*sources, hierarchy.parent[call]})
            annotations.set(node, max(around, key=hierarchy.depth.__getitem__, default=outside), Evidence.DATAFLOW)


def _fitting(given: Iterable[Tensor], shapes: Iterable[Shaped | None]) -> list[Tensor]:
    """Give the tensors that have one of some shapes."""
    known = [shape for shape in shapes if shape and shape.dims is not None]
    return [tensor for tensor in given if any(shape.fits(tensor) for shape in known)]
