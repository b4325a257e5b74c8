"""What the parts of a model come to: weights, work, activations, and what crosses between parts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mxtools.costs.activations import peak
from mxtools.costs.costs import Costs
from mxtools.graph.index import NOWHERE
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes.annotations import Annotations
from mxtools.scopes.hierarchy import ROOT_CALL
from mxtools.scopes.parameters import stored_bytes, stored_tensors
from mxtools.split.records import Figures

if TYPE_CHECKING:
    from mxtools.split.parts import Part


def figures_of(model: WorkingModel, parts: Sequence[Part], costs: Costs) -> list[Figures]:
    """Return what each part of a model comes to."""
    graph = model.graph
    stored = {value: stored_bytes(tensor) for value, tensor in stored_tensors(graph).items()}
    modules = _modules(model.annotations, parts)
    found = []
    for part, own in zip(parts, modules, strict=True):
        cut = part.cut
        weights = cut.initializers | {v for n in cut.nodes for v in graph.writes[n] if v in stored}
        products = [n for n in cut.nodes if graph.operators[n].is_product]
        made = [costs.size(v) for n in cut.chosen for v in graph.writes[n] if v not in stored]
        crossing = [costs.size(v) for v in cut.inputs if graph.producer[v] != NOWHERE]
        live = peak(graph, cut.nodes, costs.size, cut.inputs, cut.outputs)
        found.append(
            Figures(
                modules=tuple(own),
                nodes=len(cut.nodes),
                bytes=sum(stored[value] for value in weights),
                multiply_adds=sum(costs.multiply_adds.get(node, 0) for node in products),
                uncounted=sum(node not in costs.multiply_adds for node in products),
                activations=sum(size or 0 for size in made),
                peak=live.bytes,
                unsized=live.unsized,
                tensors_in=len(crossing),
                bytes_in=sum(size or 0 for size in crossing),
            )
        )
    return found


def _modules(annotations: Annotations, parts: Sequence[Part]) -> list[list[str]]:
    """Return for each part the outermost modules of which it has all nodes but constants."""
    graph, hierarchy = annotations.graph, annotations.hierarchy

    def counted(nodes: Sequence[int]) -> Counter[int]:
        live = (annotations.call[node] or ROOT_CALL for node in nodes if not graph.is_constant(node))
        return Counter(call for own in live for call in hierarchy.lineage(own))

    counts = [counted(sorted(part.cut.chosen)) for part in parts]
    total: Counter[int] = Counter()
    for count in counts:
        total.update(count)
    found = []
    for count in counts:
        whole = {call for call, number in count.items() if total[call] == number}
        found.append([hierarchy.scopes[c] for c in count if c in whole and hierarchy.parent[c] not in whole])
    return found
