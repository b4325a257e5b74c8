"""Calls that lack something in the graph: a result that something used, or what they begin or end with.

    in `block`, add(0, 1) -> 2, mul(2, 1) -> 3; it returned 2 and 3; then outside exp(2) -> 4, sin(3) -> 5

Two values must leave the nodes of `block`. If a graph has only one, a tool made the other one elsewhere, or a node of
`block` was not recognised. What could be cut out for `block` would be another module, and nobody would see it. So the
scope is recorded as incomplete, and a command that cuts refuses it.

    in `head`, `pool` ran mean(2) -> 3, and `fc` ran linear(3) -> 4

Likewise if no node is known to be `pool`, although it is no constant: the nodes of `head` begin too late then. But if
the nodes of `fc` read what `pool` read, they do its work too: a Conv pads. An exporter can also drop the relu with
which a module ended, because a Clip outside of it does the same.

    in `tower`, linear(0) -> 1, normalize(1) -> 2, which it returned

And if what leaves the nodes of `tower` is known to be 1, they end too early.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from mxtools.evidence.named_values import tensors_by_value
from mxtools.graph.fingerprints import same_fingerprint
from mxtools.graph.index import NOWHERE
from mxtools.graph.walk import reached
from mxtools.scopes.annotations import FOLDED, INDIRECT, WITHOUT, Annotations
from mxtools.scopes.hierarchy import ROOT_CALL
from mxtools.traces.traced_calls import (
    callers,
    fingerprints,
    first_equals,
    operations_making,
    operations_reading,
    plain_name,
    tensors_returned,
)

if TYPE_CHECKING:
    from mxtools.traces.sidecar import Operation, Sidecar

Known = Callable[[], Mapping[int, Sequence[int]]]
"""Returns the values that each tensor is, which takes time to find out."""


def incomplete_calls(
    annotations: Annotations, sidecar: Sidecar, absent: dict[str, str], known: Known
) -> dict[int, str]:
    """Return the calls with nodes from which fewer values leave than they returned, with both numbers: `1 of 2`.

    Also those that lack their beginning or end, with the operation: `without: relu of block.act`. `absent` has the
    scopes without nodes, with the reason for each; `known` returns the values that tensors are.

    A result counts if an operation of the call made it, from inputs of the model, and if an operation outside of the
    call used it for what the model returned; of equal ones, the first. Calls that return one result have it if anything
    leaves them but what is known to be something else, and calls that share nodes with equal calls are left out.
    """
    flow = _Flow(annotations, sidecar, known)
    found = _without_an_end(annotations, flow, absent)
    wanted = {call: count for call, count in _results_wanted(annotations, flow).items() if count}
    nodes = _nodes_within(annotations, wanted)
    shared = {call for node in annotations.equal_at for call in annotations.equal_at[node]} | annotations.equal.keys()
    for call, own in nodes.items():
        if not own or call in shared:
            continue
        leaving = _leaving(annotations, own)
        results = [value for value in leaving if not flow.is_other(value, call, own)]
        if len(results) < wanted[call] and (wanted[call] > 1 or leaving):
            found[call] = f"{len(results)} of {wanted[call]}"
    return found


def _without_an_end(annotations: Annotations, flow: _Flow, absent: dict[str, str]) -> dict[int, str]:
    """Return the calls with nodes that begin or end with an operation for which there is none, each with that.

    It is an operation of a call that should have nodes too, or with which a call ended that has only those of calls
    inside it. One with which such a call began may be in the first of these nodes, as a Pad in a Conv.
    """
    scopes, sidecar = annotations.hierarchy.scopes, flow.sidecar
    placed = {call for call in annotations.call if call is not None} | annotations.equal.keys() | {ROOT_CALL}
    placed |= {call for calls in (*annotations.merged.values(), *annotations.equal_at.values()) for call in calls}
    lacking = {n for n, scope in enumerate(scopes) if n not in placed and absent.get(scope, FOLDED) == FOLDED}
    if not lacking:
        return {}
    found: dict[int, str] = {}
    for operation in sidecar.operations:
        call = operation.call
        if call not in lacking or not flow.is_needed(operation):
            continue
        is_absent = scopes[call] in absent
        for around in (call, *callers(sidecar.calls, call)):
            leaves = flow.leaves(operation, around)
            is_last = leaves and (is_absent or flow.changes(operation))
            if around == ROOT_CALL or not (is_last or (is_absent and flow.enters(operation, around))):
                break
            if not leaves and flow.is_done_by_readers(operation):
                break
            if scopes[around] not in absent:
                found.setdefault(around, f"{WITHOUT}{plain_name(operation.name)} of {scopes[call]}")
    return found


def _results_wanted(annotations: Annotations, flow: _Flow) -> dict[int, int]:
    """Return for each call, except for the root, how many of its results count.

    Calls of one result are left out if no node was placed by data flow only: then nothing lacks it.
    """
    within, counts = annotations.hierarchy.within, {}
    graph, pairs = annotations.graph, enumerate(annotations.evidence)
    is_guessed = any(word in INDIRECT and not graph.is_constant(node) for node, word in pairs)
    for number, tensors in enumerate(tensors_returned(flow.sidecar)):
        if number == ROOT_CALL or (len(flow.sidecar.calls[number].outputs) < 2 and not is_guessed):
            continue
        returned = (tensor.id for tensor in tensors)
        own = {tensor for tensor in returned if tensor in flow.made and within(flow.made[tensor].call, number)}
        counts[number] = sum(flow.live.get(tensor) == tensor and flow.is_used(tensor, number) for tensor in own)
    return counts


class _Flow:
    """What the operations of a trace made, of what, and for what; and which values of the graph that is."""

    def __init__(self, annotations: Annotations, sidecar: Sidecar, known: Known) -> None:
        self.sidecar, self._annotations, self._known = sidecar, annotations, known
        self._prints = fingerprints(sidecar)
        self.made, self.live = operations_making(sidecar), first_equals(sidecar)
        self._within, self._readers = annotations.hierarchy.within, operations_reading(sidecar)
        self._ends = {tensor.id for tensor in sidecar.calls[ROOT_CALL].outputs}

    @cached_property
    def _needed(self) -> set[int]:
        """The tensors of which the model's results were made."""
        made = self.made
        return set(reached(self._ends, lambda tensor: made[tensor].inputs if tensor in made else ()))

    @cached_property
    def _tensors(self) -> dict[int, list[int]]:
        """The tensors that each known value is."""
        return tensors_by_value((tensor, value) for tensor, values in self._known().items() for value in values)

    def is_used(self, tensor: int, call: int) -> bool:
        """Return whether something outside of a call used a tensor for what the model returned."""
        outside = (op for op in self._readers.get(tensor, ()) if not self._within(op.call, call))
        return tensor in self._ends or any(not self._needed.isdisjoint(op.outputs) for op in outside)

    def is_needed(self, operation: Operation) -> bool:
        """Return whether what an operation made depends on inputs of the model, and the model's results on it."""
        return any(tensor in self.live and tensor in self._needed for tensor in operation.outputs)

    def changes(self, operation: Operation) -> bool:
        """Return whether an operation made other elements than it read, as far as both are known."""
        read, made = ([self._prints[t] for t in tensors if t in self._prints] for tensors in operation[2:])
        return bool(read and made) and not any(same_fingerprint(a, b) for a in read for b in made)

    def enters(self, operation: Operation, call: int) -> bool:
        """Return whether an operation reads what was made outside of a call, from inputs of the model."""
        read = [tensor for tensor in operation.inputs if tensor in self.live]
        return any(t not in self.made or not self._within(self.made[t].call, call) for t in read)

    def leaves(self, operation: Operation, call: int) -> bool:
        """Return whether something outside of a call used what an operation made."""
        return any(self.is_used(tensor, call) for tensor in operation.outputs)

    def is_other(self, value: int, call: int, nodes: Container[int]) -> bool:
        """Return whether a value that leaves the nodes of a call is known to be something that it did not return.

        If all that reads it elsewhere is known too, or its elements are not, the call may end with what exporters leave
        out, such as `contiguous`.
        """
        evidence, readers = self._annotations.evidence, self._annotations.graph.readers[value]
        if not any(n not in nodes and evidence[n] in INDIRECT for n in readers) or value not in self._tensors:
            return False
        returned = {tensor.id for tensor in self.sidecar.calls[call].outputs}
        prints = {self._prints.get(tensor) for tensor in returned}
        return all(t in self._prints and self._prints[t] not in prints for t in self._tensors[value])

    def is_done_by_readers(self, operation: Operation) -> bool:
        """Return whether the nodes of all calls that used what an operation made read instead what it read."""
        calls = {
            o.call
            for t in operation.outputs
            for o in self._readers.get(t, ())
            if not self._needed.isdisjoint(o.outputs)
        }
        values = [self._known().get(tensor, ()) for tensor in operation.inputs if tensor in self.live]
        graph, call, merged = self._annotations.graph, self._annotations.call, self._annotations.merged
        nodes = [{node for value in several for node in graph.readers[value]} for several in values]
        reading = [{c for node in found for c in (call[node], *merged.get(node, ()))} for found in nodes]
        return all(calls <= found for found in reading)


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


def _leaving(annotations: Annotations, nodes: set[int]) -> list[int]:
    """Return the values that some nodes make and others read, or that the graph returns."""
    graph, outputs = annotations.graph, set(annotations.graph.outputs)
    made = (v for node in nodes if graph.owner[node] == NOWHERE for v in graph.writes[node] if v not in graph.constant)
    return [value for value in made if value in outputs or not nodes.issuperset(graph.readers[value])]
