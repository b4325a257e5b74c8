"""Nodes that the exporter computed once, although several calls ran the same operation.

    m ──────┐
    a ─ p ─ Where ─w─┬─ MatMul       block 0: linear(0) -> 1, where(9, 1) -> 2, matmul(2) -> 3; it returned 1 and 3
                     └─ MatMul       block 1: was given 1; where(9, 1) -> 5, matmul(5) -> 6

The second Where reads what the first one reads, so the exporter left it out. In the graph, block 0 now hands out `w`,
and nobody reads `p`, which block 0 did return. The names of the nodes do not show who does what: the Where is in block
0, and rightly so. But in the trace `where` ran twice on the same tensors, and the first result, tensor 2, never left
block 0. So the Where does the work of block 1 too, and is noted as equal there.

The operations before such a node can have been left out in the same way. Then in the two calls, operations of the same
name made different tensors, and their nodes are equal too.

Both calls can also have returned what they computed:

    x ─┬─ ReduceMean ─f─┬─ Add          head a: mean(1) -> 4, returned 4
       └─ …             └─ Mul          head b: mean(1) -> 7, returned 7; no node of b makes a tensor of that shape

No reader of `f` is in `b`, and torch and ONNX have other names for the operation. What shows that the ReduceMean works
for `b` too is that `f` is the one value that can be the tensor which `a` returned, that `b` has none for its own, and
that both tensors had the same values.

A module can also do one operation, such as silu, for which ONNX has several nodes of other names. Then the node that
makes what the module returned stands for the operation. It can have run again in a caller of the module, which gave the
result to another module.

Or two modules begin with it, and the first one is in a module that returned what both were given, a tensor of the same
shape. Then no name shows whose node it is, but nothing came to the second one that the node can have made.

A module can run twice with an equal argument, as attention over the same keys does. If PyTorch ran one operation for
what are many nodes, no operation tells who made the keys. But if the second call reads what a node of the first one
makes, and the first one did not hand that out, then the second one made it too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from mxtools.graph.fingerprints import same_fingerprint
from mxtools.graph.index import NOWHERE
from mxtools.graph.walk import nodes_behind
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes.hierarchy import ROOT_CALL
from mxtools.traces.traced_calls import (
    calls_using,
    first_equals_with,
    operations_making,
    operator_name,
    plain_name,
    tensors_leaving,
)

if TYPE_CHECKING:
    from mxtools.graph.shapes import TensorShape
    from mxtools.traces.sidecar import Operation, Sidecar, TracedTensor


def find_equal_operations(model: WorkingModel) -> None:
    """Note for each node the other calls that ran its operation on the same tensors and have no node for it.

    Does nothing without a trace, or if the trace has no operations.
    """
    if model.traced and model.traced.operations:
        _EqualOperations(model, model.traced).find()


class _EqualOperations:
    """Compares the operations of a trace, and finds the nodes that stand for several of them."""

    def __init__(self, model: WorkingModel, sidecar: Sidecar) -> None:
        self._model, self._calls, self._operations = model, sidecar.calls, sidecar.operations
        self._graph, self._annotations = model.graph, model.annotations
        self._hierarchy = model.annotations.hierarchy
        self._maker, self._used = operations_making(sidecar), calls_using(sidecar)
        self._live = self._maker.keys() | {tensor.id for tensor in sidecar.calls[0].inputs}
        self._leaving = [{tensor.id: tensor for tensor in tensors} for tensors in tensors_leaving(sidecar)]
        self._alike: dict[int, list[Operation]] = defaultdict(list)
        self._ends: dict[int, list[tuple[int, TensorShape]]] = {}
        self._makers: dict[tuple[int, tuple[int, ...], str], list[int]] = {}
        self._ran: dict[tuple[int, str], list[Operation]] = defaultdict(list)
        self._waiting: dict[int, list[tuple[int | None, int]]] = defaultdict(list)
        self._same = first_equals_with(sidecar, self._maker.keys(), self._annotations.equal)
        for operation in sidecar.operations:
            if operation.outputs:
                self._ran[operation.call, operator_name(operation.name)].append(operation)
                self._alike[self._same[operation.outputs[0]]].append(operation)

    def find(self) -> None:
        """Go backwards through the main graph, and note the nodes whose results calls read without being given."""
        for node in reversed(self._graph.main):
            for reader in self._readers_elsewhere(node):
                pairs = {pair for pair in self._pairs(node, reader) if pair[1].call not in self._equal_at(node)}
                if len(pairs) == 1:
                    self._note(node, *pairs.pop())
                elif (passing := self._passing_on(node, reader)) is not None:
                    self._add(node, passing)
                elif self._ran_again(node, reader):
                    self._add_whole(node, reader)
                elif (again := self._again_at(node, reader)) is not None:
                    self._add_whole(node, again)
            self._note_waiting(node)
        for (call, other, _), returned in self._returned_again().items():
            for node, pair in zip(self._working_for(call, other, returned), returned, strict=False):
                self._note(node, *pair)

    def _returned_again(self) -> dict[tuple[int, int, tuple[int, ...]], list[tuple[Operation, Operation]]]:
        """Return pairs of equal operations in two calls that both handed out the result, by the calls and its shape.

        The trace has no arguments that are numbers, such as the axis of a mean, so the results must have had the same
        values, too. Calls without any node are left out: all of their work is that of an equal call
        (`find_equal_calls`).
        """
        within, lineage, equal = self._hierarchy.within, self._hierarchy.lineage, self._annotations.equal
        found: dict[tuple[int, int, tuple[int, ...]], list[tuple[Operation, Operation]]] = defaultdict(list)
        for alike in self._alike.values():
            first: dict[tuple[int, ...], Operation] = {}
            for other in (o for o in alike if o.outputs[0] in self._leaving[o.call]):
                one = first.setdefault(self._left(other).shape, other)
                is_apart = not within(other.call, one.call) and not within(one.call, other.call)
                if is_apart and equal.keys().isdisjoint(lineage(other.call)) and self._is_used_again(one, other):
                    found[one.call, other.call, self._left(other).shape].append((one, other))
        return found

    def _left(self, operation: Operation) -> TracedTensor:
        """Return the tensor that an operation made and that left its call."""
        return self._leaving[operation.call][operation.outputs[0]]

    def _is_used_again(self, one: Operation, other: Operation) -> bool:
        """Return whether a result is used outside of the call that made it, and is the same tensor as another one."""
        a, b = self._left(one), self._left(other)
        if a.shape != b.shape or a.fingerprint is None or b.fingerprint is None:
            return False
        return self._is_used(other) and same_fingerprint(a.fingerprint, b.fingerprint)

    def _is_used(self, operation: Operation) -> bool:
        """Return whether an operation outside of its call uses what an operation made, for the model's results."""
        return any(not self._hierarchy.within(at, operation.call) for at in self._used.get(operation.outputs[0], ()))

    def _working_for(self, call: int, other: int, pairs: Sequence[tuple[Operation, Operation]]) -> list[int]:
        """Return the nodes of a call that did the work of pairs of operations, if it is clear which ones did.

        Each used tensor of that shape which left the first call has its node there, in the same order; and the other
        call lacks as many nodes as there are pairs.
        """
        tensor = self._left(pairs[0][1])
        makers, others = self._making(call, tensor), self._making(other, tensor)
        left, left_other = (self._handed_out(at, tensor.shape) for at in (call, other))
        if (len(makers), len(others)) != (len(left), len(left_other) - len(pairs)):
            return []
        return [makers[left.index(one.outputs[0])] for one, _ in pairs]

    def _handed_out(self, call: int, shape: tuple[int, ...]) -> list[int]:
        """Return the tensors of a shape that left a call, and that its own operations made, in the order of these.

        Left out are those that nobody used, nor an equal one that another call handed out.
        """
        left = {number for number, tensor in self._leaving[call].items() if tensor.shape == shape}
        made = (o for o in self._operations_in[call] if not left.isdisjoint(o.outputs[:1]))
        return [o.outputs[0] for o in made if self._is_used(o) or self._is_used_in_place_of(o)]

    def _is_used_in_place_of(self, one: Operation) -> bool:
        """Return whether the result of another operation, equal to one and handed out by its call, is used."""
        alike = (o for o in self._alike[self._same[one.outputs[0]]] if o is not one)
        return any(o.outputs[0] in self._leaving[o.call] and self._is_used_again(one, o) for o in alike)

    def _making(self, call: int, tensor: TracedTensor) -> list[int]:
        """Return the nodes of a call whose results leave it and can be a tensor."""
        graph, shapes, annotations = self._graph, self._model.shapes, self._annotations
        if call not in self._ends:
            made = ((node, value) for node in self._nodes_in[call] for value in graph.writes[node])
            ends = ((node, shapes[value]) for node, value in made if annotations.is_read_outside(value, call))
            self._ends[call] = [(node, shape) for node, shape in ends if shape]
        key = call, tensor.shape, tensor.dtype
        if key not in self._makers:
            self._makers[key] = [node for node, shape in self._ends[call] if shape.fits(tensor)]
        return self._makers[key]

    @cached_property
    def _operations_in(self) -> dict[int, list[Operation]]:
        """The operations of each call."""
        found: dict[int, list[Operation]] = defaultdict(list)
        for operation in self._operations:
            found[operation.call].append(operation)
        return found

    @cached_property
    def _nodes_in(self) -> dict[int | None, list[int]]:
        """The nodes of the main graph in each call."""
        found: dict[int | None, list[int]] = defaultdict(list)
        for node in self._graph.main:
            found[self._annotations.call[node]].append(node)
        return found

    def _readers_elsewhere(self, node: int) -> list[int]:
        """Return the calls outside of a node's own call that read its results, or that did what such a reader does."""
        call, within = self._annotations.call[node], self._hierarchy.within
        readers = {reader for value in self._graph.writes[node] for reader in self._graph.readers[value]}
        again = {at for r in readers for at in self._equal_at(r)} - {*self._equal_at(node)}
        places = {self._annotations.call[r] for r in readers} | again
        return sorted(at for at in places if at is not None and call is not None and not within(at, call))

    def _pairs(self, node: int, reader: int) -> Iterator[tuple[Operation, Operation]]:
        """Yield the operations that a node can stand for in its call, each with the equal one nearest to a reader.

        Yields nothing if the node can have made a tensor that the reader was given.
        """
        call, within = self._annotations.call[node], self._hierarchy.within
        assert call is not None
        meet = self._hierarchy.meet(call, reader)
        if meet == call:
            return
        left = self._leaving[self._hierarchy.path_below(meet, call)[-1]].keys()
        name = plain_name(self._graph.nodes[node].op_type)
        found = [o for o in self._ran.get((call, name), ()) if self._fits(node, o)] or self._all_of(call, node)
        if any(not left.isdisjoint(o.outputs) for o in found):
            return
        for operation in found:
            alike = self._alike[self._same[operation.outputs[0]]]
            yield from ((operation, equal) for equal in alike if within(reader, equal.call))

    def _all_of(self, call: int, node: int) -> list[Operation]:
        """Return the one operation that a call ran, if a node makes what the call returned of it; else nothing."""
        ran = self._operations_in[call]
        if len(ran) != 1 or len(self._leaving[call]) != 1 or not (tensor := self._leaving[call].get(ran[0].outputs[0])):
            return []
        return ran if self._making(call, tensor) == [node] else []

    def _passing_on(self, node: int, reader: int) -> int | None:
        """Return the call that passes on to a reader what an equal call made, if a node does the same in another call.

        Such a node changes no element, such as a cast to the same type. PyTorch runs no operation for it, so no pair is
        found.
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

    def _ran_again(self, node: int, reader: int) -> bool:
        """Return whether a reader is another call of a node's module that must have made what it reads of the node.

        It must if no tensor that the node can have made came to it: none that left the node's call and that it read,
        and none that was made since and that it was given.
        """
        call = self._annotations.call[node]
        if call is None or self._calls[call].module != self._calls[reader].module:
            return False
        meet = self._hierarchy.meet(call, reader)
        if meet == reader:  # a module that calls itself
            return False
        begin = next((self._number[id(o)] for o in self._operations_in[call]), len(self._operations))
        entered = self._hierarchy.path_below(meet, reader)[-1]
        came = [t for t in self._calls[entered].inputs if self._is_made_since(t.id, begin)]
        return not self._can_have_come(node, reader, came)

    def _can_have_come(self, node: int, reader: int, came: Iterable[TracedTensor]) -> bool:
        """Return whether what a reader reads of a node can have come to it.

        It is then one of those that `came`, or one that left the node's call and that the reader's operations read.
        """
        call = self._annotations.call[node]
        left = self._leaving[call] if call is not None else {}
        tensors = [*came, *(left[t] for o in self._operations_in[reader] for t in o.inputs if t in left)]
        call_of, readers = self._annotations.call, self._graph.readers
        read = [v for v in self._graph.writes[node] if any(call_of[at] == reader for at in readers[v])]
        shapes = [self._model.shapes[value] for value in read]
        return any(shape is None or any(map(shape.fits, tensors)) for shape in shapes)

    def _again_at(self, node: int, reader: int) -> int | None:
        """Return the call that must have done a node's work again, for a reader in it, though no name shows it.

        Both calls begin with the same operation, such as a silu, the node has made what it makes only of what this
        operation reads, and nothing that the node can have made came to the reader.
        """
        call, within = self._annotations.call[node], self._hierarchy.within
        meet = ROOT_CALL if call is None else self._hierarchy.meet(call, reader)
        if call is None or meet in (call, reader) or not self._beginning[call]:
            return None
        entered = self._hierarchy.path_below(meet, reader)[-1]
        values, places = self._given_behind(node, call), set[int]()
        for operation in self._beginning[call]:
            read = {tensor for tensor in operation.inputs if tensor in self._live}
            came = [tensor for tensor in self._calls[entered].inputs if tensor.id not in read]
            given = [tensor for tensor in self._calls[operation.call].inputs if tensor.id in read]
            fit = all(not (s := self._model.shapes[v]) or any(map(s.fits, given)) for v in values)
            if len(values) == len(read) and fit and not self._can_have_come(node, reader, came):
                alike = (o.call for o in self._alike[self._same[operation.outputs[0]]])
                places.update(at for at in alike if within(reader, at) and not within(call, at))
        return places.pop() if len(places) == 1 else None

    @cached_property
    def _beginning(self) -> dict[int, list[Operation]]:
        """The operations of each call that read only what it was given, and that ran again on the same tensors."""
        found: dict[int, list[Operation]] = defaultdict(list)
        for alike in self._alike.values():
            for one in alike if len(alike) > 1 else ():
                if not any(self._is_made_in(tensor, one.call) for tensor in one.inputs):
                    found[one.call].append(one)
        return found

    def _given_behind(self, node: int, call: int) -> set[int]:
        """Return the values from outside of a node's call of which its result is made."""
        graph, place, within = self._graph, self._place, self._hierarchy.within

        def is_given(value: int) -> bool:
            at = place(value)
            return at is None or not within(at, call)

        nodes = {node} | nodes_behind(graph, graph.live_reads(node), lambda v: not graph.is_live(v) or is_given(v))
        return {value for each in nodes for value in graph.live_reads(each) if is_given(value)}

    @cached_property
    def _number(self) -> dict[int, int]:
        """The place of each operation in the order in which they ran, by the operation's `id`."""
        return {id(operation): number for number, operation in enumerate(self._operations)}

    def _is_made_since(self, tensor: int, begin: int) -> bool:
        return tensor in self._maker and self._number[id(self._maker[tensor])] >= begin

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
        """Note that a node is equal in a call, and so are the nodes before it whose operations ran again there."""
        left = [(node, operation, equal)]
        while left:
            node, operation, equal = left.pop()
            if equal.call in self._equal_at(node) or operation.call != self._annotations.call[node]:
                continue
            self._add(node, equal.call)
            values = self._graph.live_reads(node)
            tensors = [pair for pair in zip(operation.inputs, equal.inputs, strict=True) if pair[0] in self._live]
            given = [self._are_equal(*pair) and not self._is_made_in(pair[0], operation.call) for pair in tensors]
            if all(given):
                values = self._add_all(values, operation.call, equal.call)
            if len(values) != len(tensors):
                continue
            for value, (one, other), is_given in zip(values, tensors, given, strict=True):
                if is_given:
                    self._add_all([value], operation.call, equal.call)
                if one != other and one in self._maker and self._graph.producer[value] != NOWHERE:
                    left.append((self._graph.producer[value], self._maker[one], self._maker[other]))

    def _are_equal(self, one: int, other: int) -> bool:
        return self._same.get(one, one) == self._same.get(other, other)

    def _add_whole(self, node: int, equal: int, call: int | None = None) -> None:
        """Note that a node is equal, and what leads to it in its call, or in another one whose work it does too."""
        self._add(node, equal)
        self._add_all(self._graph.live_reads(node), self._annotations.call[node] if call is None else call, equal)

    def _add_all(self, values: list[int], call: int | None, equal: int) -> list[int]:
        """Note that the nodes of a call which lead to values are equal too: all but the last node of an operation.

        Return the values that these nodes were given. Their nodes wait until it is known which did the call's work too.
        """
        graph, place = self._graph, self._place
        behind = nodes_behind(graph, values, lambda v: not graph.is_live(v) or place(v) != call)
        for node in behind:
            self._add(node, equal)
        read = (*values, *(v for node in sorted(behind) for v in graph.live_reads(node)))
        given = list(dict.fromkeys(v for v in read if place(v) != call))
        for maker in {graph.producer[v] for v in given if place(v) is not None}:
            self._waiting[maker].append((call, equal))
        return given

    def _note_waiting(self, node: int) -> None:
        """Note that a node is equal in calls that did all of a call's work again, if it does that call's work too."""
        for call, equal in self._waiting.pop(node, ()):
            if call in self._equal_at(node) and equal != self._annotations.call[node]:
                self._add_whole(node, equal, call)

    def _add(self, node: int, call: int) -> None:
        """Note that a node is equal in a call, unless all of that call is equal to another one (`find_equal_calls`)."""
        if call not in self._equal_at(node) and call not in self._annotations.equal:
            self._annotations.equal_at[node] = (*self._equal_at(node), call)

    def _is_made_in(self, tensor: int, call: int) -> bool:
        return tensor in self._maker and self._hierarchy.within(self._maker[tensor].call, call)
