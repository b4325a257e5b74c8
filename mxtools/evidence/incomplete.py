"""Calls of which the graph lacks a result, although something used it.

    in `block`, add(0, 1) -> 2, mul(2, 1) -> 3; it returned 2 and 3; then outside exp(2) -> 4, sin(3) -> 5

Two values must leave the nodes of `block`. If a graph has only one, a tool made the other one elsewhere, or a node of
`block` was not recognised. What could be cut out for `block` would be another module, and nobody would see it. So the
scope is recorded as incomplete, and a command that cuts refuses it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING

from mxtools.graph.index import NOWHERE
from mxtools.graph.walk import reached
from mxtools.scopes.annotations import Annotations
from mxtools.traces.traced_calls import (
    first_equals,
    operations_making,
    operations_reading,
    returned_tensors,
)

if TYPE_CHECKING:
    from mxtools.traces.sidecar import Sidecar


def incomplete_calls(annotations: Annotations, sidecar: Sidecar) -> dict[int, str]:
    """Return the calls with nodes from which fewer values leave than they returned, with both numbers: `1 of 2`.

    A result counts if an operation of the call made it, from inputs of the model, and if an operation outside of the
    call used it for what the model returned; of equal ones, the first. Calls that return one result have it if anything
    leaves them, and calls that share nodes with equal calls are left out.
    """
    wanted = {call: count for call, count in _results_wanted(annotations, sidecar).items() if count > 1}
    nodes = _nodes_within(annotations, wanted)
    shared = {call for node in annotations.equal_at for call in annotations.equal_at[node]} | annotations.equal.keys()
    found = {}
    for call, own in nodes.items():
        leaving = _leaving(annotations, own) if own and call not in shared else wanted[call]
        if leaving < wanted[call]:
            found[call] = f"{leaving} of {wanted[call]}"
    return found


def _results_wanted(annotations: Annotations, sidecar: Sidecar) -> dict[int, int]:
    """Return for each call, except for the root, how many of its results count."""
    made, live, within = operations_making(sidecar), first_equals(sidecar), annotations.hierarchy.within
    ends = {tensor.id for tensor in sidecar.calls[0].outputs}
    needed = set(reached(ends, lambda tensor: made[tensor].inputs if tensor in made else ()))
    readers = operations_reading(sidecar)

    def is_used(tensor: int, call: int) -> bool:
        """Return whether something outside of a call used a tensor for what the model returned."""
        outside = (op for op in readers[tensor] if not within(op.call, call))
        return tensor in ends or any(not needed.isdisjoint(operation.outputs) for operation in outside)

    counts = {}
    for number, call in enumerate(sidecar.calls[1:], 1):
        own = {t.id for t in returned_tensors(call) if t.id in made and within(made[t.id].call, number)}
        counts[number] = sum(live.get(tensor) == tensor and is_used(tensor, number) for tensor in own)
    return counts


def _nodes_within(annotations: Annotations, calls: Iterable[int]) -> dict[int, set[int]]:
    """Return for some calls the nodes that lie in them, or in calls that they made."""
    found: dict[int, set[int]] = {call: set() for call in calls}
    of_call: dict[int, list[int]] = defaultdict(list)
    for node, call in enumerate(annotations.call):
        if call is not None:
            of_call[call].append(node)
    for call, nodes in of_call.items():
        for around in annotations.hierarchy.lineage(call):
            if around in found:
                found[around].update(nodes)
    return found


def _leaving(annotations: Annotations, nodes: set[int]) -> int:
    """Return how many values some nodes make that others read, or that the graph returns."""
    graph, outputs = annotations.graph, set(annotations.graph.outputs)
    made = (v for node in nodes if graph.owner[node] == NOWHERE for v in graph.writes[node] if v not in graph.constant)
    return sum(value in outputs or not nodes.issuperset(graph.readers[value]) for value in made)
