"""The pass `settle-given`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from onnx import ModelProto

from mxtools.annotations import Evidence
from mxtools.context import Context, Pass
from mxtools.graph import NOWHERE
from mxtools.shapes import Shaped
from mxtools.sidecar import Sidecar, Tensor


@dataclass(frozen=True)
class SettleGiven(Pass):
    """Move auxiliary nodes out of a module where what they make, not what they read, is what the module was given."""

    name: ClassVar[str] = "settle-given"
    annotates: ClassVar[bool] = True

    def apply(self, model: ModelProto, context: Context) -> None:
        """Move each such node to the innermost call that returned what it makes, else to where its sources are.

        Along the data flow, so that a chain moves from its beginning. Needs a trace, which tells what each call was
        given; without one nothing is done.
        """
        graph, annotations = context.graph(model), context.annotations(model)
        hierarchy = annotations.hierarchy
        if not hierarchy.sidecar:
            return
        auxiliary = [n for n, word in enumerate(annotations.evidence) if word is Evidence.DATAFLOW]
        given, calls = _Given(hierarchy.sidecar), annotations.call
        for node in auxiliary:
            call = annotations.call[node]
            if (
                not call
                or graph.owner[node] != NOWHERE
                or call in map(annotations.call.__getitem__, graph.sources(node))
            ):
                continue
            live = [v for v in graph.reads[node] if graph.producer[v] != NOWHERE and v not in graph.constant]
            sources = {at for v in live if (at := calls[graph.producer[v]]) is not None}
            if not sources or any(hierarchy.within(at, call) for at in sources):
                continue
            shapes = context.shapes(model)
            made = given.fitting(call, (shapes[v] for v in graph.writes[node]))
            if made and not given.fitting(call, (shapes[v] for v in live)):
                homes = [at for at in given.makers(made) if all(hierarchy.within(s, at) for s in sources)]
                outside = hierarchy.common({*sources, hierarchy.parent[call]})
                annotations.set(node, max(homes, key=hierarchy.depth.__getitem__, default=outside), Evidence.DATAFLOW)


class _Given:
    """What calls were given, and which calls returned it."""

    def __init__(self, sidecar: Sidecar) -> None:
        self._calls = sidecar.calls
        self._makers: dict[int, list[int]] = {}
        for number, call in enumerate(sidecar.calls):
            own = {tensor.id for tensor in call.inputs}
            for tensor in call.outputs:
                if tensor.id not in own:
                    self._makers.setdefault(tensor.id, []).append(number)

    def fitting(self, call: int, shapes: Iterable[Shaped | None]) -> list[Tensor]:
        """Give the tensors given to a call that have one of some shapes."""
        known = [shape for shape in shapes if shape and shape.dims is not None]
        return [t for t in self._calls[call].inputs if any(shape.fits(t) for shape in known)]

    def makers(self, tensors: Iterable[Tensor]) -> list[int]:
        """Give the calls that returned one of some tensors."""
        return [call for tensor in tensors for call in self._makers.get(tensor.id, ())]
