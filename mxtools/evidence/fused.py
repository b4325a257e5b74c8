"""Nodes that do the work of several modules, such as a Conv with a folded BatchNorm."""

from __future__ import annotations

import math
from collections import Counter

from mxtools.evidence.absent import calls_with_nodes, is_vacuous
from mxtools.graph.index import NOWHERE, Graph
from mxtools.graph.shapes import Shapes
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes.annotations import Annotations
from mxtools.traces.sidecar import Sidecar, full_name, makers


def assign_fused(model: WorkingModel) -> None:
    """Find the calls that no node bears and that took just what another call returned, or returned what it takes.

    An exporter that merges two modules leaves one node with the scope of either. Needs a trace.
    """
    annotations = model.annotations
    sidecar = model.traced
    if not sidecar:
        return
    borne = calls_with_nodes(annotations)
    open_ = [c for c in range(len(sidecar.calls)) if c not in borne and not is_vacuous(sidecar.calls[c])]
    if not open_:
        return
    fused = _FusedCalls(model.graph, annotations, model.shapes, sidecar, borne)
    for call in open_:
        fused.place(call)


class _FusedCalls:
    """Which call made each tensor of the trace and which took it, and which calls nodes bear."""

    def __init__(
        self, graph: Graph, annotations: Annotations, shapes: Shapes, sidecar: Sidecar, borne: set[int]
    ) -> None:
        self.graph, self.annotations, self.shapes, self.sidecar = graph, annotations, shapes, sidecar
        self.constant = graph.constant
        self.borne = borne
        self.first = {full_name(m, w): w.tied or full_name(m, w) for m in sidecar.modules for w in m.weights}
        self.weights = {m.path: {self.first[full_name(m, w)] for w in m.weights} for m in sidecar.modules}
        self.shapes_of = {m.path: [tuple(sorted(w.shape)) for w in m.weights] for m in sidecar.modules}
        self.maker = {tensor: calls[-1] for tensor, calls in makers(sidecar).items()}
        self.takers: dict[int, list[int]] = {}
        for number, call in enumerate(sidecar.calls):
            for tensor in {tensor.id for tensor in call.inputs}:
                self.takers.setdefault(tensor, []).append(number)
        self.nodes: dict[int, list[int]] = {}
        for node, at in enumerate(annotations.call):
            if at is not None and graph.owner[node] == NOWHERE and not set(graph.writes[node]) <= self.constant:
                self.nodes.setdefault(at, []).append(node)

    def place(self, call: int) -> None:
        """Find the node that does the work of an absent call: of the call before it, or of the one after.

        It is the node with a weight of the shape of the call's largest that no other module accounts for. Failing that,
        the node before, if it no longer uses its own module's weights as they are.
        """
        before, after = self._before(call), self._after(call)
        if before is not None and (self._fits(before, call) or after is None or not self._fits(after, call)):
            self._move(before, call)
        elif after is not None and self._fits(after, call):
            at = self.annotations.call[after]
            self.annotations.merged[after] = (call, *self.annotations.merged.get(after, () if at is None else (at,)))

    def _before(self, call: int) -> int | None:
        """Give the last node of the call that made all that a call works on, if its weights are altered and it fits."""
        record = self.sidecar.calls[call]
        makers = {self.maker[t.id] for t in record.inputs if t.id in self.maker}
        makers -= set(self.annotations.hierarchy.lineage(call))
        source = makers.pop() if len(makers) == 1 else None
        if source is None or not self.nodes.get(source) or not self._altered(source):
            return None
        node = self.nodes[source][-1]
        shapes = [shape for value in self.graph.writes[node] if (shape := self.shapes[value])]
        return node if any(shape.fits(t) for t in record.outputs for shape in shapes) else None

    def _after(self, call: int) -> int | None:
        """Give the only node of the only call that works on what a call made."""
        hierarchy = self.annotations.hierarchy
        takers = {taker for t in self.sidecar.calls[call].outputs for taker in self.takers.get(t.id, ())} & self.borne
        innermost = [t for t in takers if not any(u != t and hierarchy.within(u, t) for u in takers)]
        nodes = self.nodes.get(innermost[0], []) if len(innermost) == 1 else []
        return nodes[0] if len(nodes) == 1 else None

    def _fits(self, node: int, call: int) -> bool:
        """Tell whether a node has a weight of the shape of a call's largest, besides those of its own modules."""
        at = self.annotations.call[node]
        modules = self.annotations.merged.get(node, () if at is None else (at,))
        tensors = (self.graph.initializers.get(value) for value in self.graph.reads[node])
        left = Counter(tuple(sorted(tensor.dims)) for tensor in tensors if tensor)
        left.subtract(shape for module in modules for shape in self.shapes_of[self.sidecar.calls[module].module])
        largest = max(self.shapes_of[self.sidecar.calls[call].module], key=math.prod, default=None)
        return largest is not None and left[largest] > 0

    def _altered(self, call: int) -> bool:
        """Tell whether a call's nodes no longer use its module's weights as they are."""
        used = {self.first.get(self.graph.names[v]) for n in self.nodes[call] for v in self.graph.reads[n]}
        weights = self.weights[self.sidecar.calls[call].module]
        return bool(weights) and not weights & used

    def _move(self, node: int, call: int) -> None:
        """Give a node to a call whose output it makes."""
        annotations = self.annotations
        at = annotations.call[node]
        assert at is not None
        annotations.merged[node] = (*annotations.merged.get(node, (at,)), call)
        annotations.call[node] = call
        self.nodes[at].remove(node)
        self.nodes[call] = [node]
        self.borne.update(annotations.hierarchy.lineage(call))
