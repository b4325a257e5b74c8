"""What several modules share (common subexpressions) belongs to their lowest common ancestor.

    m ─ Abs ─u─ Sqrt ─k─┬─ Mul(x, k) ─h─ Add(h, k) ─ Relu ─ y
                        └────────────────┘
        one     one        one           two         two        what the exporter wrote
        .       .          one           two         two        what is right

    PyTorch ran: `one`, given x and m, returned h; `two`, given h and m, returned y

In PyTorch, `one` and `two` each compute sqrt(abs(m)) for themselves. The exporter sees the same expression twice, keeps
the first, and names it after `one`. Then `two` reads k out of the middle of `one`, and whatever is cut out for `two` is
not the module that it was.

The obvious rule is to hoist everything that several modules read. It fails: `two` reads h as well, but h is the result
of `one` and rightly made there. So what matters is which tensors a call *returned*. k and h both leave `one`, but `one`
returned only one tensor, h of 2x4. The nodes are visited against the data flow: Mul comes first, and h claims the
tensor that `one` returned. None is left for k, so Sqrt moves out to the root, the lowest common ancestor of the nodes
that read k. Then u, which only Sqrt reads, leaves `one` too, and Abs follows.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from mxtools.graph.index import NOWHERE, Graph
from mxtools.graph.shapes import TensorShape
from mxtools.matching.constants import constants_equal_to
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes.annotations import Evidence
from mxtools.scopes.hierarchy import ROOT_CALL
from mxtools.traces.traced_calls import (
    TURNING,
    call_times,
    first_equals,
    operations_making,
    operations_reading,
    outputs_returned,
    tensors_leaving,
)

if TYPE_CHECKING:
    from mxtools.traces.sidecar import Sidecar, TracedTensor


def hoist_shared(model: WorkingModel) -> None:
    """Move nodes out of a module if a value that they make leaves it, but the module did not return this value.

    The nodes are visited against the data flow, so the readers of a node get their places before it does. Does nothing
    without a trace, since the trace says what each call returned.
    """
    graph, annotations = model.graph, model.annotations
    if not model.traced:
        return
    unclaimed = _UnclaimedResults(model, model.traced)
    calls, producer = annotations.call, graph.producer
    leaving = unclaimed.outputs.keys() | _crossing(graph, calls)
    # a heap of negative numbers, so the last node comes first; moved nodes add the makers of what they read
    waiting = sorted({-producer[value] for value in leaving if producer[value] != NOWHERE})
    done = NOWHERE
    while waiting:
        node = -heapq.heappop(waiting)
        if node == done:
            continue
        done, before = node, calls[node]
        for value in graph.writes[node]:
            if value in leaving or calls[node] != before:
                unclaimed.hoist_or_claim(node, value)
        # a moved node now reads its inputs from outside of its old module, so they leave that module from now on
        for value in graph.data_reads(node) if calls[node] != before else ():
            maker = producer[value]
            if maker < node and maker != NOWHERE and calls[maker] != calls[node]:
                leaving.add(value)
                heapq.heappush(waiting, -maker)


def _crossing(graph: Graph, calls: Sequence[int | None]) -> set[int]:
    """Return the values that a node of one call makes and a node of another call reads."""
    made_in = [NOWHERE if maker == NOWHERE else calls[maker] for maker in graph.producer]
    reading = ((v, at) for node, at in enumerate(calls) for v in graph.data_reads(node))
    return {v for v, at in reading if (made := made_in[v]) != at and made != NOWHERE}


class _UnclaimedResults:
    """The tensors that calls returned, and which of them no value of the graph has claimed yet.

    Attributes: `former_calls`, for each moved node the call that it was in, and the calls that use its result; `calls`,
    of the trace; `ended` and `born`, when each call ended and each tensor was first seen; `read`, the ids of the
    tensors that the operations of each call read; `readers`, the operations that read each tensor; `maker`, the one
    that made it; `returned`, the tensors by which its work leaves each call; `equal`, for each constant of the graph
    the ids of those that it equals; `claimable`, those that no constant is; `outputs`, the graph's outputs that the
    traced model returned, each with that tensor. The trace does not say that other outputs, such as caches, leave a
    call.
    """

    def __init__(self, model: WorkingModel, sidecar: Sidecar) -> None:
        self.graph, self.annotations = model.graph, model.annotations
        self.shapes = model.shapes
        self.outputs = outputs_returned({v: self.graph.names[v] for v in self.graph.outputs}, sidecar)
        self.former_calls: dict[int, set[int]] = {}
        self.calls = sidecar.calls
        _, self.ended, self.born = call_times(sidecar)
        self.read: dict[int, set[int]] = defaultdict(set)
        for operation in sidecar.operations:
            self.read[operation.call].update(operation.inputs)
        self.readers = operations_reading(sidecar)
        self.maker = operations_making(sidecar)
        self.returned = tensors_leaving(sidecar)
        self.equal = constants_equal_to(model, [tensor for tensors in self.returned for tensor in tensors])
        self.claimable = self._claimable(first_equals(sidecar).keys())
        self._claims: dict[tuple[int, int], int] = {}
        self._wishes: dict[tuple[int, int], list[int]] = {}

    def hoist_or_claim(self, node: int, value: int) -> None:
        """Let a value claim a tensor that its call returned; if none is left, move its node out of the call.

        A value that leaves several calls claims one tensor of each. It stays in its own call if that call returned it,
        even if it leaves calls further out that did not; else its node moves to the innermost one that returned it. A
        constant claims nothing: it stays if it can be what its call returned, and if its node reads something.
        """
        graph, calls, hierarchy = self.graph, self.annotations.call, self.annotations.hierarchy
        call = calls[node]
        if call is None or graph.owner[node] != NOWHERE or graph.region[node]:
            return
        served: dict[int, set[int]] = defaultdict(set)
        for at in {at for n in self._readers(value) if (at := calls[n]) is not None}:
            served[self.annotations.serving(node, call, at)].add(at)
        readers = served[call] | ({ROOT_CALL} if value in self.outputs else set())
        common = hierarchy.common({call, *readers})
        if common == call or (shape := self._shape(call, value)) is None:
            return
        outer = hierarchy.common(readers)
        if value in self.graph.constant:
            outer = call if self.graph.reads[node] and self._can_be_returned(call, shape, value) else outer
        elif not graph.operators[node].is_named("DynamicQuantizeLinear"):  # no call returned a scale
            users = self._users(value)
            for at in reversed(hierarchy.path_below(common, call)):  # the outermost call comes first
                if self._claim(at, shape, value, users) or self._is_transposed_again(at, value):
                    outer = at
                elif self._claim_transposed(at, shape, value) or self._ends_in_readers(at, value):
                    outer = at
                    users.add(at)  # what ends inside the readers also reads the value
        if outer != call:
            self.former_calls[node] = {call} | self._users(value)
            self.annotations.set(node, outer, Evidence.DATAFLOW)
            self._move_equal(node, outer, served)

    def _move_equal(self, node: int, outer: int, served: Mapping[int, set[int]]) -> None:
        """Let a node that moved to `outer` work for the common callers of those for which its equal calls did.

        `served` has for each call the readers for which it made the result, before the node was moved.
        """
        annotations, hierarchy = self.annotations, self.annotations.hierarchy
        equal = {hierarchy.common({c, *served.get(c, ())}) for c in annotations.equal_at.pop(node, ())}
        kept = tuple(sorted(c for c in equal if not hierarchy.within(c, outer)))
        if kept:
            annotations.equal_at[node] = kept

    def _users(self, value: int, computing: bool = False) -> set[int]:
        """Return the calls that read a value; with `computing`, only those that do more than take elements of it.

        A moved node counts for its former call and its users, a merged node for all its calls.
        """
        users = {ROOT_CALL} if value in self.outputs else set[int]()
        for node in self._readers(value):
            if not (computing and self.graph.operators[node].takes_elements):
                users.update(self.former_calls.get(node) or self.annotations.calls_done(node))
        return users

    def _shape(self, call: int, value: int) -> TensorShape | None:
        """Return the shape of a value of a call; quantised numbers are the floats for which they stand."""
        shape = self.shapes[value]
        return shape if not shape or any(map(shape.fits, self.returned[call])) else shape.in_floats

    def _readers(self, value: int) -> list[int]:
        """Return the nodes that read a value; those that ask only for its shape do not count."""
        return [node for node in self.graph.readers[value] if not self.graph.operators[node].reads_only_shape]

    def _can_be_returned(self, call: int, shape: TensorShape, value: int) -> bool:
        """Return whether a constant can be a tensor that a call returned.

        It is equal to that, if its elements are known. Otherwise it has the tensor's shape, or an unknown number of
        dimensions, no other value is known to be the tensor, and the tensor can have reached a reader of the constant.
        """
        if value in self.equal:
            return any(tensor.id in self.equal[value] for tensor in self.returned[call])
        may_be = shape.fits if shape.dims is None else shape.agrees
        users = self._users(value)
        return any(may_be(t) and self._reaches_any(t, call, shape, users) for t in self._unclaimed(call))

    def _claim(self, call: int, shape: TensorShape, value: int, users: set[int]) -> bool:
        """Claim for a value a tensor that a call returned, and return whether one fits.

        A tensor of the same shape comes before one that only has as many elements; among those, one that the operations
        of the value's readers read comes first. A result of the model claims the tensor that the model returned. A copy
        claims for what it is a copy of: if a model returns a tensor twice, the second result is an Identity of the
        first, and a conversion to the type that a tensor has is a Cast.
        """
        fitting = [t for t in self.claimable[call] if shape.fits(t) and not self._lacks_turn(t, value)]
        fitting = [t for t in fitting if self._reaches_any(t, call, shape, users)]
        fitting = [t for t in fitting if t.id == self.outputs.get(value)] or fitting
        fitting.sort(key=lambda t: (t.shape != shape.dims, not any(t.id in self.read[at] for at in users)))
        value = self._original(value)
        wishes = self._wishes[call, value] = [t.id for t in fitting]
        has_one = any(self._claims.get((call, t)) == value for t in wishes) or self._assign(call, value)
        equal = (self._claims.get((call, t.id), value) for t in fitting if t.shape == shape.dims)
        return has_one or any(self._is_reshaped(claiming, value) for claiming in equal)

    def _is_reshaped(self, value: int, source: int) -> bool:
        """Return whether a value is another one reshaped, as an exporter does once for a call and its caller."""
        maker = self.graph.producer[value]
        return maker != NOWHERE and self.graph.operators[maker].keeps_elements and self.graph.reads[maker][0] == source

    def _lacks_turn(self, tensor: TracedTensor, value: int) -> bool:
        """Return whether an operation turned a tensor but no node did, which equal dimensions do not show."""
        last = self.maker.get(tensor.id)
        if last is None or last.name not in TURNING or len({*tensor.shape} - {1}) == sum(d != 1 for d in tensor.shape):
            return False
        maker = self.graph.producer[value]
        while maker != NOWHERE and self.graph.operators[maker].keeps_numbers:  # copied or quantised since
            before = self.graph.producer[self.graph.reads[maker][0]]
            maker = before if before < maker else NOWHERE  # not so in a circle
        return maker != NOWHERE and not self.graph.operators[maker].is_named("Transpose")

    def _original(self, value: int) -> int:
        """Return what a value is a copy of, or the quantised numbers of; itself if it is neither."""
        graph, shapes = self.graph, self.shapes
        while (maker := graph.producer[value]) != NOWHERE:
            source, operator = next(iter(graph.reads[maker]), value), graph.operators[maker]
            is_copied = operator.is_named("Identity") or operator.is_named("Cast")
            one, other = (shapes[value], shapes[source]) if is_copied else (None, None)
            is_same = one and other and one.element == other.element
            if not (is_same or operator.is_conversion) or graph.producer[source] >= maker:  # in a circle
                break
            value = source
        return value

    def _assign(self, call: int, value: int) -> bool:
        """Give a value a tensor that it can claim; if need be, the value that had it takes another one, and so on."""
        wanted_by, had = dict[int, int](), dict[int, int]()
        waiting = [value]
        for wanting in waiting:
            for tensor in self._wishes.get((call, wanting), ()):
                if tensor in wanted_by:
                    continue
                wanted_by[tensor] = wanting
                former = self._claims.get((call, tensor))
                if former is not None:
                    had[former] = tensor
                    waiting.append(former)
                    continue
                while (now := wanted_by[tensor]) != value:
                    self._claims[call, tensor], tensor = now, had[now]
                self._claims[call, tensor] = value
                return True
        return False

    def _unclaimed(self, call: int) -> list[TracedTensor]:
        """Return the tensors of a call that no value has claimed."""
        return [t for t in self.claimable[call] if (call, t.id) not in self._claims]

    def _reaches_any(self, tensor: TracedTensor, call: int, shape: TensorShape, readers: Iterable[int]) -> bool:
        """Return whether a tensor that left a call can have reached one of some readers outside of the call."""
        return any(self._reaches(tensor, call, shape, at) for at in readers)

    def _reaches(self, tensor: TracedTensor, call: int, shape: TensorShape, reader: int) -> bool:
        """Return whether a tensor that left a call can have reached a reader outside of the call.

        What is read within the call says nothing of what left it. Outside, it can if an operation of the reader read
        it, or if their common caller passed it on, unchanged or made into a later tensor of the value's shape, or made
        it into what the reader was given by one operation: an exporter may fuse that, such as a Pad, with the reader.
        If the inputs of a call were not seen, it can have been given anything.
        """
        hierarchy = self.annotations.hierarchy
        meet = hierarchy.meet(call, reader)
        if meet == call:
            return False
        if meet == reader or tensor.id in self.read[reader]:
            return True
        entered = hierarchy.path_below(meet, reader)[-1]
        given, end = self.calls[entered].inputs, self.ended[call]
        if not given or any(t.id == tensor.id or (self.born[t.id] > end and shape.fits(t)) for t in given):
            return True
        makers = [self.maker[t.id] for t in given if t.id in self.maker]
        return any(maker.call == meet and tensor.id in maker.inputs for maker in makers)

    def _is_transposed_again(self, call: int, value: int) -> bool:
        """Return whether a call returned a value transposed, and all that others do with the value is to transpose it.

        An exporter makes one transposition of two in a row, so the second one reads what the first one reads. The
        second one ends the call too.
        """
        outside = self._outside(call, value)
        transposing = {r for r in self.graph.readers[value] if self.graph.operators[r].is_named("Transpose")}
        own = {made for reader in transposing.difference(outside) for made in self.graph.writes[reader]}
        again = next((t for t in self.returned[call] if self._claims.get((call, t.id)) in own), None)
        if again is None or not outside or not transposing.issuperset(outside):
            return False
        self._merge_into(outside, call)
        return True

    def _claim_transposed(self, call: int, shape: TensorShape, value: int) -> bool:
        """Claim a returned tensor that can be the value transposed, and return whether there is one.

        The readers of the value do the transposition, so the call ends inside them: they are merged nodes.
        """
        outside = self._outside(call, value)
        inside = set(self.graph.readers[value]).difference(outside)
        is_turned = any(self.graph.operators[reader].is_named("Transpose") for reader in inside)
        fits = shape.can_be_transposed if is_turned else shape.is_transposed
        unclaimed = self._unclaimed(call)
        fitting = next((t for t in unclaimed if fits(t) or (shape.fits(t) and self._lacks_turn(t, value))), None)
        if fitting is None:
            return False
        self._claims[call, fitting.id] = value
        self._end_in(outside, call, fitting)
        return True

    def _ends_in_readers(self, call: int, value: int) -> bool:
        """Return whether the readers of a value also do the last operation of a call, whose result no value is.

        An exporter makes one operator of two, if the caller goes on with an operation of the same name:

            in `enc`, cat(0, 1) -> 2; then in the root, cat(3, 2) -> 4         Concat(3, 0, 1), in the root

        Or it leaves out both, such as two transpositions. Then nothing in the call reads the value.
        """
        outside, within = self._outside(call, value), self.annotations.hierarchy.within
        if any(call in self.annotations.merged.get(reader, ()) for reader in outside):
            return True
        for tensor in self._unclaimed(call) if len(outside) == len(self.graph.readers[value]) else ():
            last = self.maker.get(tensor.id)
            if last is not None and within(last.call, call):
                again = [operation.call for operation in self.readers.get(tensor.id, ()) if operation.name == last.name]
                places = [self.annotations.call[reader] for reader in outside]
                if all(any(at is not None and within(at, second) for second in again) for at in places):
                    self._claims[call, tensor.id] = value
                    self._end_in(outside, call, tensor)
                    return True
        return False

    def _outside(self, call: int, value: int) -> list[int]:
        """Return the readers of a value that are not in a call."""
        within = self.annotations.hierarchy.within
        readers = ((reader, self.annotations.call[reader]) for reader in self.graph.readers[value])
        return [reader for reader, at in readers if at is not None and not within(at, call)]

    def _end_in(self, nodes: list[int], call: int, tensor: TracedTensor) -> None:
        """Let a call end inside of nodes of other calls, or give it the node if that makes what the call returned.

        One transposition in the place of two makes it if the second one moved only dimensions of 1, such as
        `transpose(0, 1)` of a batch of one.
        """
        if len(nodes) == 1 and self._only_transposes_to(nodes[0], tensor):
            self.annotations.set(nodes[0], call, Evidence.DATAFLOW)
            return
        self._merge_into(nodes, call)

    def _merge_into(self, nodes: Iterable[int], call: int) -> None:
        """Let nodes of other calls do the work of a call too."""
        for node in nodes:
            done = self.annotations.calls_done(node)
            self.annotations.merged[node] = done if call in done else (*done, call)

    def _only_transposes_to(self, node: int, tensor: TracedTensor) -> bool:
        """Return whether a node is a transposition and makes a tensor, up to dimensions of 1."""
        made = self.graph.writes[node] if self.graph.operators[node].is_named("Transpose") else ()
        shape = self.shapes[made[0]] if made else None
        if shape is None or shape.dims is None or node in self.annotations.merged:
            return False
        own, traced = ([dim for dim in dims if dim != 1] for dims in (shape.dims, tensor.shape))
        return own == traced and len({*own}) == len(own)

    def _claimable(self, live: Collection[int]) -> list[list[TracedTensor]]:
        """Return for each call the tensors that left it and that no constant stands for.

        A constant can equal a tensor by chance, as zeros do. It stands for what left its own call, and for what is not
        `live` and left the call of a reader that computes with it (a slice can be the tensor) or came to a reader.
        """
        constants: dict[int, list[int]] = defaultdict(list)
        for value, number in ((value, number) for value, tensors in self.equal.items() for number in tensors):
            constants[number].append(value)

        def is_folded(tensor: TracedTensor, call: int) -> bool:
            return any(self._stands_for(value, tensor, call, tensor.id in live) for value in constants[tensor.id])

        return [[t for t in tensors if not is_folded(t, call)] for call, tensors in enumerate(self.returned)]

    def _stands_for(self, constant: int, tensor: TracedTensor, call: int, is_live: bool) -> bool:
        """Return whether a constant is the tensor, equal to it, that left a call."""
        shape, within, maker = self.shapes[constant], self.annotations.hierarchy.within, self.graph.producer[constant]
        at = None if maker == NOWHERE else self.annotations.call[maker]
        is_own = at is not None and within(at, call)
        if is_own or is_live or shape is None:
            return is_own
        is_read = any(within(user, call) for user in self._users(constant, computing=True))
        return is_read or self._reaches_any(tensor, call, shape, self._users(constant))
