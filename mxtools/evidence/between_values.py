"""Evidence from recorded values: a node lies in a module if it lies between that module's inputs and outputs."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

from mxtools.graph.index import NOWHERE, Graph
from mxtools.matching.traced_values import matched_values
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes.annotations import Evidence
from mxtools.traces.sidecar import Sidecar, times


def annotate_by_values(model: WorkingModel) -> None:
    """Run the graph on the recorded inputs and annotate the nodes that have no direct evidence.

    Needs a sidecar with recorded values; without, nothing is done. Raises InputError where the graph does not run.
    """
    graph, annotations = model.graph, model.annotations
    sidecar = model.traced
    if not sidecar or not model.values or all(call is not None for call in annotations.call):
        return
    matches = matched_values(model, sidecar, model.values)
    inside: dict[int, list[int]] = defaultdict(list)
    for call, nodes in enumerate(_between(graph, sidecar, matches)):
        for node in nodes:
            inside[node].append(call)
    equal = {value for values in matches.values() for value in values}
    hierarchy = annotations.hierarchy
    for node, calls in inside.items():
        if annotations.call[node] is None:
            innermost = [a for a, b in pairwise(calls) if not hierarchy.within(b, a)] + calls[-1:]
            word = Evidence.VALUE if equal.intersection(graph.writes[node]) else Evidence.DATAFLOW
            annotations.set(node, hierarchy.common(innermost), word)


def _between(graph: Graph, sidecar: Sidecar, matches: dict[int, list[int]]) -> list[set[int]]:
    """Give for each call the nodes of the main graph between what was there when it began and what it returned."""
    begun, _, born = times(sidecar)
    inside: list[set[int]] = []
    first: dict[int, int] = {}
    for tensor, values in matches.items():
        for value in values:
            first[value] = min(first.get(value, born[tensor]), born[tensor])
    for number, call in enumerate(sidecar.calls):
        given = {tensor.id for tensor in call.inputs}
        returned = [matches[t.id][0] for t in call.outputs if t.id in matches and t.id not in given]
        nodes: set[int] = set()
        open_ = [v for v in returned if first[v] > begun[number]]
        while open_:
            node = graph.producer[open_.pop()]
            if node != NOWHERE and node not in nodes:
                nodes.add(node)
                open_.extend(v for v in graph.needs[node] if first.get(v, begun[number] + 1) > begun[number])
        inside.append(nodes)
    return inside
