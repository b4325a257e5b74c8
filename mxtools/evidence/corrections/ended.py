"""Calls that end inside a node of another call, because a tool moved their last operation with a weight into it.

    x ─ MatMul ─ Add ─ Gelu ─ y           x ─ MatMul ─ BiasGelu ─ y
        dense    dense  act                   dense    act
               dense.bias                            dense.bias      merged: dense, act

The MatMul is still a node of `dense`, so `dense` could be cut out; but what the MatMul makes is not what `dense`
returned. What shows it: the BiasGelu reads a weight of `dense` and what `dense` makes, and no node of `dense` reads
that weight.

What came between, such as the sum of a residual connection, is then in the node too, and with it the ends of the calls
that returned it. If the node has a further result, that is the sum, for those who go on with it:

    r ─────────────────────────── Add ── s ──── …         r ────────── SkipLayerNormalization ─┬─ s ── …
    x ─ MatMul ─ Add ────────────────┴─ LayerNorm ─ y     x ─ MatMul ──────────┘               └─ y
        dense    dense            layer  norm                 dense    layer; merged: dense, norm

Without a weight of `dense`, the sum is in the node too. What shows it then: the node is no operator of ONNX, so a tool
made it, and it reads more values from outside of `norm` than `norm` was given tensors.

A tool that drops additions of zeros and keeps one of several equal weights makes a graph that looks the same, where
the weight of `dense` stands for one of the reader's own. So a weight counts only if the reader lacks none of its shape.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from mxtools.graph.index import NOWHERE
from mxtools.graph.walk import reached
from mxtools.scopes.annotations import Annotations, Evidence
from mxtools.traces.traced_calls import calls_returning, full_name, operations_making, operations_reading

if TYPE_CHECKING:
    from mxtools.evidence.calls.index import CallIndex
    from mxtools.traces.sidecar import TracedModule, Weight

LONGEST = 8
"""How many operations in a row may lie between two calls: hardly ever do more, and the limit keeps the time linear."""


def enter_ended(annotations: Annotations, index: CallIndex) -> None:
    """Enter the calls whose last operation with a weight is in a node of another call as merged into that node.

    Nodes that the exporter itself says to belong to a module stay as they are. A weight that several modules hold shows
    nothing.
    """
    graph, within = annotations.graph, annotations.hierarchy.within
    reading, used = _reading(annotations, index)
    modules = {module.path: module for module in index.sidecar.modules}
    shared = {weight.tied for module in modules.values() for weight in module.weights}
    found: dict[int, list[int]] = {}
    for node, weights in reading.items():
        at = annotations.call[node]
        if at is None or annotations.evidence[node] == Evidence.METADATA:
            continue
        makers = {call for n in graph.sources(node) if (call := annotations.call[n]) is not None}
        own = modules[index.sidecar.calls[at].module]
        lacking = {tuple(sorted(w.shape)) for w in own.weights if full_name(own, w) not in used[at]}
        for module, weight in weights:
            name = full_name(module, weight)
            ended = [c for c in index.by_module(module.path) if any(within(maker, c) for maker in makers)]
            is_own = module.path == own.path  # read by another call of the same module
            if len(ended) != 1 or is_own or name in used[ended[0]]:
                continue
            if not (weight.tied or name in shared or tuple(sorted(weight.shape)) in lacking):
                found.setdefault(node, []).append(ended[0])
    for node, operator in enumerate(graph.operators):
        if operator.is_compound and node not in found and _reads_more(annotations, index, node):
            found[node] = []
    if found:
        _EndedCalls(annotations, index).enter(found)


def _reads_more(annotations: Annotations, index: CallIndex, node: int) -> bool:
    """Return whether a node reads more values from outside of its call than the call was given tensors."""
    graph, at = annotations.graph, annotations.call[node]
    if at is None or annotations.evidence[node] == Evidence.METADATA or graph.owner[node] != NOWHERE:
        return False
    makers = {value: graph.producer[value] for value in graph.live_reads(node)}
    calls = {value: None if maker == NOWHERE else annotations.call[maker] for value, maker in makers.items()}
    outside = [value for value, call in calls.items() if call is None or not annotations.hierarchy.within(call, at)]
    return len(outside) > len({tensor.id for tensor in index.sidecar.calls[at].inputs}) > 0


def _reading(
    annotations: Annotations, index: CallIndex
) -> tuple[dict[int, list[tuple[TracedModule, Weight]]], dict[int, set[str]]]:
    """Return the traced weights that each node reads, with their modules, and the names of those of each call."""
    graph = annotations.graph
    reading: dict[int, list[tuple[TracedModule, Weight]]] = defaultdict(list)
    used: dict[int, set[str]] = defaultdict(set)
    for value, tensor in graph.initializers.items():
        if tensor.name in index.weights:
            module, weight = index.weights[tensor.name]
            for node in graph.readers[value]:
                if (call := annotations.call[node]) is not None:
                    reading[node].append((module, weight))
                    for around in annotations.hierarchy.lineage(call):
                        used[around].add(full_name(module, weight))
    return reading, used


class _EndedCalls:
    """Enters calls that end inside nodes of other calls, and what comes between these calls."""

    def __init__(self, annotations: Annotations, index: CallIndex) -> None:
        self._annotations, self._calls = annotations, index.sidecar.calls
        self._returning = calls_returning(index.sidecar)
        self._readers = operations_reading(index.sidecar)
        self._maker = operations_making(index.sidecar)

    def enter(self, found: dict[int, list[int]]) -> None:
        """Enter the calls that end inside each node; move nodes with further results out to who goes on with these."""
        graph, annotations = self._annotations.graph, self._annotations
        hierarchy, outputs = annotations.hierarchy, set(graph.outputs)
        for node, ended in found.items():
            at = annotations.call[node]
            assert at is not None
            makers = {call for n in graph.sources(node) if (call := annotations.call[n]) is not None}
            makers = {call for call in makers if not any(c != call and hierarchy.within(c, call) for c in makers)}
            made, read = self._returned(ended), self._returned(makers)
            between = self._between(made | read, {at, *ended, *makers}, at) - (read - made)
            results = [v for v in graph.writes[node] if graph.readers[v] or v in outputs]
            if len(results) > 1 and not between:
                between = self._made_around(at, makers)
            ending = {call for tensor in between for call in self._returning.get(tensor, ())}
            ending = {call for call in ending if not hierarchy.within(at, call)}.union(ended)
            if ending:
                annotations.merged[node] = tuple(dict.fromkeys((*sorted(ending), *annotations.calls_done(node))))
            going_on = {call for tensor in between for call in self._going_on(tensor, at)} - ending
            if len(results) > 1 and (common := hierarchy.common({at, *going_on})) != at:
                begun = [call for call in hierarchy.path_below(common, at) if call != at]  # their cuts would lack it
                annotations.merged[node] = tuple(dict.fromkeys((*begun, *annotations.calls_done(node))))
                annotations.set(node, common, Evidence.DATAFLOW)

    def _going_on(self, tensor: int, at: int) -> Iterator[int]:
        """Yield the calls that read a tensor; for one outside of a call around `at` that returned it, that call."""
        within = self._annotations.hierarchy.within
        around = [call for call in self._returning.get(tensor, ()) if within(at, call)]
        for operation in self._readers.get(tensor, ()):
            yield next((call for call in reversed(around) if not within(operation.call, call)), operation.call)

    def _made_around(self, at: int, makers: Collection[int]) -> set[int]:
        """Return what a call was given that an operation made of several tensors, in a call around all `makers`."""
        made = ((t.id, self._maker[t.id]) for t in self._calls[at].inputs if t.id in self._maker)
        within = self._annotations.hierarchy.within
        return {
            tensor
            for tensor, operation in made
            if len(operation.inputs) > 1 and makers and all(within(maker, operation.call) for maker in makers)
        }

    def _returned(self, calls: Collection[int]) -> set[int]:
        return {tensor.id for call in calls for tensor in self._calls[call].outputs}

    def _between(self, starts: set[int], calls: Collection[int], at: int) -> set[int]:
        """Return those of some tensors, and of what callers made of them, from which they made what `at` was given.

        These are the callers of some `calls`.
        """
        callers = self._annotations.hierarchy.with_callers(calls)
        given = {tensor.id for tensor in self._calls[at].inputs}
        made_of: dict[int, set[int]] = defaultdict(set)
        fresh = starts
        for _ in range(LONGEST):
            reading = [op for tensor in fresh - given for op in self._readers.get(tensor, ()) if op.call in callers]
            fresh = {tensor for operation in reading for tensor in operation.outputs} - made_of.keys()
            for operation in reading:
                for tensor in operation.outputs:
                    made_of[tensor].update(operation.inputs)
        known = made_of.keys() | starts
        return set(reached(given & known, lambda tensor: made_of[tensor] & known))
