"""The pass `settle-shared`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onnx import ModelProto

from mxtools.annotations import Annotations, Evidence
from mxtools.context import Context, Pass
from mxtools.graph import NOWHERE, constants
from mxtools.hierarchy import ROOT_CALL
from mxtools.shapes import Shaped, inferred_infos, shaped
from mxtools.sidecar import Sidecar


@dataclass(frozen=True)
class SettleShared(Pass):
    """Move what modules share (common subexpressions) from the first of them to their lowest common ancestor."""

    name: ClassVar[str] = "settle-shared"
    annotates: ClassVar[bool] = True

    def apply(self, model: ModelProto, context: Context) -> None:
        """Move each node that makes a tensor which leaves a module without being one that the module returns.

        Against the data flow, so that the readers of a node are settled before it. Needs a trace, which tells what each
        call returned; without one nothing is done.
        """
        graph, annotations = context.graph(model), context.annotations(model)
        hierarchy = annotations.hierarchy
        if not hierarchy.sidecar:
            return
        infos = inferred_infos(model)
        shapes = [shaped(infos.get(name)) for name in graph.names]
        constant = constants(graph)
        outputs = set(graph.outputs)
        returns = _Returns(annotations, hierarchy.sidecar)
        for node in range(len(graph.nodes) - 1, -1, -1):
            if graph.owner[node] != NOWHERE or graph.region[node]:
                continue
            for value in graph.writes[node]:
                readers = {call for n in graph.readers[value] if (call := annotations.call[n]) is not None}
                readers |= {ROOT_CALL} if value in outputs else set()
                if value not in constant and readers:
                    returns.settle(node, readers, shapes[value])


class _Returns:
    """The tensors that calls returned and that no value of the graph stands for yet."""

    def __init__(self, annotations: Annotations, sidecar: Sidecar) -> None:
        self.annotations = annotations
        self.left = [
            list({t.id: t for t in call.outputs if t.id not in {i.id for i in call.inputs}}.values())
            for call in sidecar.calls
        ]

    def settle(self, node: int, readers: set[int], shape: Shaped | None) -> None:
        """Move a node out of the calls that a value of it leaves without being returned by them."""
        annotations, hierarchy = self.annotations, self.annotations.hierarchy
        call = annotations.call[node]
        if call is None or shape is None:
            return
        common = hierarchy.common({call, *readers})
        for at in hierarchy.lineage(call):
            if at == common:
                return
            fitting = min(
                (t for t in self.left[at] if shape.fits(t)), key=lambda t: t.shape != shape.dims, default=None
            )
            if fitting is None:
                annotations.set(node, hierarchy.common(readers), Evidence.DATAFLOW)
                return
            self.left[at].remove(fitting)
