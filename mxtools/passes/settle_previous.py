"""The pass `settle-previous`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onnx import ModelProto

from mxtools.graph.index import NOWHERE
from mxtools.matching.carried import Carried
from mxtools.pipeline.context import Context, Pass
from mxtools.scopes.annotations import Annotations, Evidence


@dataclass(frozen=True)
class SettlePrevious(Pass):
    """Move what a tool made modules share out of them, and say which modules end inside nodes of others."""

    name: ClassVar[str] = "settle-previous"
    annotates: ClassVar[bool] = True

    def apply(self, model: ModelProto, context: Context) -> None:
        """Compare the tensors that leave modules with those that left them in the earlier model.

        Without an earlier model nothing is done.
        """
        carried = context.carried(model)
        if carried:
            annotations = context.annotations(model)
            _move_shared(annotations, carried)
            _merge(annotations, carried)


def _move_shared(annotations: Annotations, carried: Carried) -> None:
    """Move nodes, against the data flow, out of the calls that their values did not leave before and leave now.

    To a node that does work of a call, or reads what another value of it gave, something of that call came before.
    """
    graph, hierarchy, outputs = carried.graph, annotations.hierarchy, set(carried.graph.outputs)
    for node in range(len(graph.nodes) - 1, -1, -1):
        call = annotations.call[node]
        if call is None or call not in carried.within.get(node, ()):
            continue
        for value in graph.writes[node]:
            before = set[int]().union(*(carried.left.get(other, ()) for other in carried.of.get(value, ())))
            for reader in graph.readers[value] if value not in outputs else ():
                at = annotations.call[reader]
                common = call if at is None else hierarchy.meet(call, at)
                known = before | carried.flows.get(reader, set()) | carried.within.get(reader, set())
                new = [c for c in hierarchy.below(common, call) if c not in known]
                call = hierarchy.parent[new[-1]] if new else call
        if call != annotations.call[node]:
            annotations.set(node, call, Evidence.DATAFLOW)


def _merge(annotations: Annotations, carried: Carried) -> None:
    """Say of nodes which modules end inside them."""
    merged: dict[int, set[int]] = {}
    for call, host in (_ending(annotations, carried) | _merged_before(carried)).items():
        at = annotations.call[host]
        if at is not None and at != call:
            merged.setdefault(host, {at}).add(call)
    annotations.merged.update({host: tuple(sorted(calls)) for host, calls in merged.items()})


def _ending(annotations: Annotations, carried: Carried) -> dict[int, int]:
    """Give the calls of which no node makes what left them before, with the node that does that work."""
    hierarchy, earlier = annotations.hierarchy, carried.earlier
    made, hosts = set[int](), dict[int, int]()
    for value, calls in carried.ends.items():
        makers = [earlier.producer[v] for v in (value, carried.elements[value]) if v not in earlier.constant]
        nodes = [carried.host[n] for n in makers if n != NOWHERE and carried.host[n] >= 0]
        at = [call for n in nodes if (call := annotations.call[n]) is not None]
        for call in calls if nodes else ():
            if any(hierarchy.within(a, call) for a in at):
                made.add(call)
            else:
                hosts.setdefault(call, nodes[0])
    return {call: host for call, host in hosts.items() if call not in made and call not in carried.passing}


def _merged_before(carried: Carried) -> dict[int, int]:
    """Give the calls that ended inside nodes of others before, with the nodes that do the work of these."""
    hierarchy, was = carried.was.hierarchy, carried.was
    merged = ((node, call) for node, calls in was.merged.items() for call in calls if carried.host[node] >= 0)
    return {
        call: carried.host[node]
        for node, call in merged
        if (own := was.call[node]) is None or not hierarchy.within(own, call)
    }
