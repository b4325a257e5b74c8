"""Nodes of a branch that lie between a call's nodes and what the call returned.

    If ─ y      then: h ─ Gemm ─ Sin ─ y        the trace: cond returned 7; `r` was called in it and returned 7
                         r.l

torch.export writes no modules on the nodes of branches, and the trace does not see the operations in them. The weights
show that the Gemm is in `r.l`. Since `r` returned what the branch did, the Sin, which lies between, ran in `r`.
"""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING

from mxtools.graph.index import NOWHERE
from mxtools.graph.walk import nodes_behind
from mxtools.scopes.annotations import Evidence
from mxtools.traces.traced_calls import plain_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mxtools.graph.index import Graph
    from mxtools.pipeline.working_model import WorkingModel
    from mxtools.traces.sidecar import Sidecar


def annotate_branches(model: WorkingModel) -> None:
    """Annotate what lies in a branch between the nodes of a call and its end, if the call ended with the branch.

    Does nothing without a trace, or if the graph has another number of Ifs than the trace of branches.
    """
    graph = model.graph
    ifs = [n for n, node in enumerate(graph.nodes) if node.op_type == "If" and graph.owner[n] == NOWHERE]
    ending = list(_ending_with_branches(model.traced)) if model.traced and ifs else []
    if len(ending) != len(ifs):
        return
    for node, calls in zip(ifs, ending, strict=True):
        ends = [value for value in graph.reads[node] if not _is_outside(graph, node, value)]
        inside = sorted(nodes_behind(graph, ends, partial(_is_outside, graph, node)))
        for call in calls:  # the outermost first
            _annotate_after(model, inside, call)


def _is_outside(graph: Graph, holder: int, value: int) -> bool:
    """Return whether a value is made outside the bodies of a node."""
    return graph.producer[value] == NOWHERE or graph.owner[graph.producer[value]] != holder


def _annotate_after(model: WorkingModel, nodes: list[int], call: int) -> None:
    """Annotate the nodes, in the order of the data flow, that come after a node of a call."""
    graph, annotations = model.graph, model.annotations
    for node in nodes:
        before = [at for source in graph.sources(node) if (at := annotations.call[source]) is not None]
        if annotations.call[node] is None and any(annotations.hierarchy.within(at, call) for at in before):
            annotations.set(node, call, Evidence.DATAFLOW)


def _ending_with_branches(sidecar: Sidecar) -> Iterator[list[int]]:
    """Yield for each `torch.cond` of a trace, in order, the calls in it that returned just what it did."""
    returning: dict[frozenset[int], list[int]] = defaultdict(list)
    for number, call in enumerate(sidecar.calls):
        returning[frozenset(tensor.id for tensor in call.outputs)].append(number)
    for operation in sidecar.operations:
        if plain_name(operation.name) == "cond":
            yield [call for call in returning[frozenset(operation.outputs)] if call > operation.call]
