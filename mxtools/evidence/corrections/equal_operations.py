"""Nodes that the exporter computed once though several calls ran their operation.

    m ──────┐
    a ─ p ─ Where ─w─┬─ MatMul       block 0: linear(0) -> 1, where(9, 1) -> 2, matmul(2) -> 3; it returned 1 and 3
                     └─ MatMul       block 1: was given 1; where(9, 1) -> 5, matmul(5) -> 6

The exporter saw that the second Where reads what the first one does, and left it out. So the graph says that block 0
hands out `w`, and nobody reads `p`, which it did return. The obvious way to tell who does what, the names of the
nodes, shows nothing: the Where is of block 0, and rightly so. But in the trace `where` ran twice on the same tensors,
and what it made never left block 0, tensor 2 being neither returned nor left by the side. So the Where does the work of
block 1 too, and is noted as equal there.

What such a node reads can have been left out in the same way; then operations that made other tensors stand behind
those of equal name, and their nodes are equal too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mxtools.evidence.corrections.operations import plain_name
from mxtools.graph.index import NOWHERE
from mxtools.graph.walk import nodes_behind
from mxtools.pipeline.working_model import WorkingModel
from mxtools.traces.traced_calls import leaving_tensors, operations_making

if TYPE_CHECKING:
    from mxtools.traces.sidecar import Operation, Sidecar


def find_equal_operations(model: WorkingModel) -> None:
    """Note for nodes in which other calls too their operation ran on the same tensors, and has no node of its own.

    Does nothing without a trace, or with one that holds no operations.
    """
    if model.traced and model.traced.operations:
        _EqualOperations(model, model.traced).find()


class _EqualOperations:
    """Compares the operations of a trace, and finds the nodes that stand for several of them."""

    def __init__(self, model: WorkingModel, sidecar: Sidecar) -> None:
        self._graph, self._annotations = model.graph, model.annotations
        self._hierarchy = model.annotations.hierarchy
        self._maker = operations_making(sidecar)
        self._live = self._maker.keys() | {tensor.id for tensor in sidecar.calls[0].inputs}
        self._leaving = [{tensor.id for tensor in leaving_tensors(call)} for call in sidecar.calls]
        self._alike: dict[int, list[Operation]] = defaultdict(list)
        self._ran: dict[tuple[int, str], list[Operation]] = defaultdict(list)
        first: dict[tuple[str, tuple[int, ...], int], Operation] = {}
        same: dict[int, int] = {}
        for operation in sidecar.operations:
            if operation.outputs:
                self._ran[operation.call, plain_name(operation.name)].append(operation)
            if not self._live.isdisjoint(operation.inputs) and operation.outputs:
                key = operation.name, tuple(same.get(t, t) for t in operation.inputs), len(operation.outputs)
                equal = first.setdefault(key, operation)
                self._alike[equal.outputs[0]].append(operation)
                same.update(zip(operation.outputs, equal.outputs, strict=True))
        self._same = same

    def find(self) -> None:
        """Go backwards through the main graph, and note the nodes whose results others read that were never given."""
        for node in reversed(self._graph.main):
            for reader in self._readers_elsewhere(node):
                pairs = {pair for pair in self._pairs(node, reader) if pair[1].call not in self._equal_at(node)}
                if len(pairs) == 1:
                    self._note(node, *pairs.pop())
                elif (passing := self._passing_on(node, reader)) is not None:
                    self._add(node, passing)

    def _readers_elsewhere(self, node: int) -> list[int]:
        """Return the calls outside of a node's own in which its results are read."""
        call, within = self._annotations.call[node], self._hierarchy.within
        if call is None:
            return []
        readers = (r for v in self._graph.writes[node] for r in self._graph.readers[v])
        places = {at for r in readers if (at := self._annotations.call[r]) is not None}
        return sorted(at for at in places if not within(at, call))

    def _pairs(self, node: int, reader: int) -> Iterator[tuple[Operation, Operation]]:
        """Yield the operations of a node's call that it can stand for, each with the equal one nearest to a reader.

        Nothing is yielded where the node can be what made a tensor that the reader was given.
        """
        call, within = self._annotations.call[node], self._hierarchy.within
        assert call is not None
        meet = self._hierarchy.meet(call, reader)
        if meet == call:
            return
        left = self._leaving[self._hierarchy.path_below(meet, call)[-1]]
        name = plain_name(self._graph.nodes[node].op_type)
        found = [o for o in self._ran.get((call, name), ()) if self._fits(node, o)]
        if any(not left.isdisjoint(o.outputs) for o in found):
            return
        for operation in found:
            for equal in self._alike[self._same.get(operation.outputs[0], operation.outputs[0])]:
                if within(reader, equal.call) and not within(call, equal.call):
                    yield operation, equal

    def _passing_on(self, node: int, reader: int) -> int | None:
        """Return the call that passes on to a reader what an equal call made there, and a node in another call does.

        Such a node changes no element: a cast to the same type is no operation in PyTorch, and no pair is found for it.
        """
        operator, values = self._graph.operators[node], self._graph.live_reads(node)
        if len(values) != 1 or not (operator.keeps_elements or operator.is_named("Cast")):
            return None
        maker, at = self._graph.producer[values[0]], self._place(values[0])
        serving = None if at is None else self._annotations.serving(maker, at, reader)
        if serving in (None, at):
            return None
        around, within, call = self._hierarchy.parent[serving], self._hierarchy.within, self._annotations.call[node]
        return around if call is not None and within(reader, around) and not within(call, around) else None

    def _fits(self, node: int, operation: Operation) -> bool:
        """Return whether a node can stand for an operation of its name, by who made the values that it reads."""
        call, within = operation.call, self._hierarchy.within
        values, tensors = self._graph.live_reads(node), [t for t in operation.inputs if t in self._live]
        own = [at is not None and within(at, call) for at in map(self._place, values)]
        made = [self._is_made_in(t, call) for t in tensors]
        return sorted(own) == sorted(made)

    def _place(self, value: int) -> int | None:
        maker = self._graph.producer[value]
        return None if maker == NOWHERE else self._annotations.call[maker]

    def _equal_at(self, node: int) -> tuple[int, ...]:
        return self._annotations.equal_at.get(node, ())

    def _note(self, node: int, operation: Operation, equal: Operation) -> None:
        """Note that a node is equal in a call, and so are those before it whose operations ran there again."""
        left = [(node, operation, equal)]
        while left:
            node, operation, equal = left.pop()
            if equal.call in self._equal_at(node) or operation.call != self._annotations.call[node]:
                continue
            self._add(node, equal.call)
            values = self._graph.live_reads(node)
            tensors = [pair for pair in zip(operation.inputs, equal.inputs, strict=True) if pair[0] in self._live]
            given = [one == other and not self._is_made_in(one, operation.call) for one, other in tensors]
            if all(given):
                self._add_all(values, operation.call, equal.call)
            elif len(values) == len(tensors):
                for value, (one, other), is_given in zip(values, tensors, given, strict=True):
                    if is_given:
                        self._add_all([value], operation.call, equal.call)
                    elif one != other and one in self._maker and self._graph.producer[value] != NOWHERE:
                        left.append((self._graph.producer[value], self._maker[one], self._maker[other]))

    def _add_all(self, values: list[int], call: int, equal: int) -> None:
        """Note what leads to values in a call as equal too: of an operation of several nodes, those before the last."""
        call_of, producer, is_live = self._annotations.call, self._graph.producer, self._graph.is_live
        for node in nodes_behind(self._graph, values, lambda v: not is_live(v) or call_of[producer[v]] != call):
            self._add(node, equal)

    def _add(self, node: int, call: int) -> None:
        if call not in self._equal_at(node):
            self._annotations.equal_at[node] = (*self._equal_at(node), call)

    def _is_made_in(self, tensor: int, call: int) -> bool:
        return tensor in self._maker and self._hierarchy.within(self._maker[tensor].call, call)
