"""The pass `settle-merged`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onnx import ModelProto

from mxtools.absent import VACUOUS, borne_calls, reason
from mxtools.annotations import Annotations
from mxtools.context import Context, Pass
from mxtools.graph import NOWHERE, Graph, constants
from mxtools.shapes import Shapes
from mxtools.sidecar import Sidecar, full_name


@dataclass(frozen=True)
class SettleMerged(Pass):
    """Give nodes that do several modules' work (Conv with a folded BatchNorm) to the module whose output they make."""

    name: ClassVar[str] = "settle-merged"
    annotates: ClassVar[bool] = True

    def apply(self, model: ModelProto, context: Context) -> None:
        """Find the calls that no node bears and that took just what another call returned, or returned what it takes.

        An exporter that merges two modules leaves one node with the scope of either. Needs a trace.
        """
        annotations = context.annotations(model)
        sidecar = annotations.hierarchy.sidecar
        if not sidecar:
            return
        borne = borne_calls(annotations)
        open_ = [c for c in range(len(sidecar.calls)) if c not in borne and reason(sidecar, c) != VACUOUS]
        if not open_:
            return
        merging = _Merging(context.graph(model), annotations, context.shapes(model), sidecar, borne)
        for call in open_:
            merging.into_source(call)
        for call in reversed(open_):
            if call not in merging.borne:
                merging.into_reader(call)


class _Merging:
    """Which call made each tensor of the trace and which took it, and which calls nodes bear."""

    def __init__(
        self, graph: Graph, annotations: Annotations, shapes: Shapes, sidecar: Sidecar, borne: set[int]
    ) -> None:
        self.graph, self.annotations, self.shapes, self.sidecar = graph, annotations, shapes, sidecar
        self.constant = constants(graph)
        self.borne = borne
        self.first = {full_name(m, w): w.tied or full_name(m, w) for m in sidecar.modules for w in m.weights}
        self.weights = {m.path: {self.first[full_name(m, w)] for w in m.weights} for m in sidecar.modules}
        self.maker: dict[int, int] = {}
        self.takers: dict[int, list[int]] = {}
        for number, call in enumerate(sidecar.calls):
            given = {tensor.id for tensor in call.inputs}
            self.maker.update({t.id: number for t in call.outputs if t.id not in given})
            for tensor in given:
                self.takers.setdefault(tensor, []).append(number)
        self.nodes: dict[int, list[int]] = {}
        for node, at in enumerate(annotations.call):
            if at is not None and graph.owner[node] == NOWHERE and not set(graph.writes[node]) <= self.constant:
                self.nodes.setdefault(at, []).append(node)

    def into_source(self, call: int) -> None:
        """Where an absent call works on just what another call made, that one's last node makes its output too."""
        makers = {self.maker[t.id] for t in self.sidecar.calls[call].inputs if t.id in self.maker}
        lineage = set(self.annotations.hierarchy.lineage(call))
        for source in makers - lineage:
            if len(makers) == 1 and self.nodes.get(source) and self._altered(source):
                node = self.nodes[source][-1]
                made = [shape for v in self.graph.writes[node] if (shape := self.shapes[v])]
                if any(shape.fits(t) for t in self.sidecar.calls[call].outputs for shape in made):
                    self._move(node, source, call)

    def into_reader(self, call: int) -> None:
        """Where just one other call works on what an absent call made, that one's first node does its work too."""
        record = self.sidecar.calls[call]
        takers = {taker for t in record.outputs for taker in self.takers.get(t.id, ()) if taker in self.borne}
        innermost = [t for t in takers if not any(u != t and self.annotations.hierarchy.within(u, t) for u in takers)]
        if len(innermost) == 1 and self.weights[record.module] and len(self.nodes.get(innermost[0], ())) == 1:
            node = self.nodes[innermost[0]][0]
            self.annotations.merged[node] = (call, *self.annotations.merged.get(node, (innermost[0],)))

    def _altered(self, call: int) -> bool:
        """Tell whether a call's nodes no longer use its module's weights as they are."""
        used = {self.first.get(self.graph.names[v]) for n in self.nodes[call] for v in self.graph.reads[n]}
        weights = self.weights[self.sidecar.calls[call].module]
        return bool(weights) and not weights & used

    def _move(self, node: int, source: int, call: int) -> None:
        annotations = self.annotations
        annotations.merged[node] = (*annotations.merged.get(node, (source,)), call)
        annotations.call[node] = call
        self.nodes[source].remove(node)
        self.nodes[call] = [node]
        self.borne.update(annotations.hierarchy.lineage(call))
