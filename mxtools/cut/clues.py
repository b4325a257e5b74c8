"""Which values of a graph are which tensors of a trace, told without values: by who made them and who reads them.

A module of key-value pairs, with two results of one shape:

    x ─ Linear k ─ Concat ─a─ Mul           PyTorch ran: in `k` linear(0) -> 1, in `kv` cat(1) -> 2,
    └── Linear v ─ Concat ─b─ Softmax       in `v` linear(0) -> 3, in `kv` cat(3) -> 4; then mul(2), softmax(4)

The obvious way is the order: the first result is the first Concat. But tools sort nodes anew, and then it is wrong
without a sign. So clues decide. Each says something of a value and of a tensor alike: it is made of what `k` returned,
a Softmax reads it. A clue that holds for one tensor and for one value, of those in question, makes them a pair: a is 2,
and b is 4. If two clues contradict each other, or if there is none, nothing is decided.

Clues of two kinds are asked in turn. Where a value comes from and goes to is certain as tags are, so what is left when
the others are paired is a pair too. Names of operators are less certain: `silu` becomes Sigmoid and Mul, so that a Mul
may be no `mul`. They count only if they pair all that is left.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from mxtools.graph.index import NOWHERE
from mxtools.graph.walk import components, nodes_behind, reached
from mxtools.scopes.annotations import Annotations
from mxtools.scopes.hierarchy import ROOT_CALL
from mxtools.traces.traced_calls import calls_returning, first_equals, operations_making, operations_reading, plain_name

if TYPE_CHECKING:
    from mxtools.traces.sidecar import Operation, Sidecar, TracedTensor

Clue = tuple[str, object]
"""What is said of a value or a tensor, and a call, a name or a place."""

Candidates = Mapping[int, Collection[int]]
"""The values that may be each tensor, by its id."""

_Held = Mapping[int, set[Clue]]
"""The clues of tensors, by their ids, or of values."""

_Holders = Mapping[Clue, list[int]]
"""The tensors or values for which each clue holds."""

_NAMED = frozenset({"made by", "made with", "read by"})
"""What is said with the name of an operator or function."""


class Clues:
    """What a graph and a trace say of values and tensors alike; `pairs` tells which is which."""

    def __init__(self, annotations: Annotations, sidecar: Sidecar) -> None:
        """Take the annotations of a graph and its trace, whose calls have the same numbers."""
        self._annotations, self._graph, self._within = annotations, annotations.graph, annotations.hierarchy.within
        self._maker, self._returning = operations_making(sidecar), calls_returning(sidecar)
        self._readers = operations_reading(sidecar)
        root = sidecar.calls[ROOT_CALL]
        self._inputs = {tensor.id: tensor.name for tensor in root.inputs}
        self._live, self._tagged = set(first_equals(sidecar)), set(annotations.call)
        self._returned: dict[int, set[Clue]] = defaultdict(set)
        for place, tensor in enumerate(root.outputs):
            self._returned[tensor.id] |= {("returned as", tensor.name), ("returned at", place)}
        self._has_all_results = len(root.outputs) == len(self._graph.outputs)
        self._alike: dict[object, set[int]] = defaultdict(set)
        for tensor in (t for call in sidecar.calls for t in (*call.inputs, *call.outputs)):
            self._alike[tensor.shape, tensor.fingerprint].add(tensor.id)

    def maker(self, tensor: int) -> int | None:
        """Return the innermost call that made a tensor; None for an input of the model, or if it is not known."""
        operation = self._maker.get(tensor)
        if operation:
            return operation.call
        return self._returning[tensor][-1] if tensor in self._returning else None

    def equal(self, tensor: TracedTensor) -> set[int]:
        """Return the ids of a tensor and of those that equal it, as before a slice that takes everything.

        Fingerprints tell them if no order of the dimensions but one has the shape.
        """
        long = [size for size in tensor.shape if size != 1]
        is_clear = tensor.fingerprint is not None and 0 < len(long) == len(set(long))
        return self._alike[tensor.shape, tensor.fingerprint] if is_clear else {tensor.id}

    def depends_alike(self, value: int, tensor: int) -> bool:
        """Return whether a value depends on all inner calls of the maker of a tensor on which that depends.

        Only calls with nodes count. A value before the end of a call depends on less than what the call returned.
        """
        operation, call_of, annotations = self._maker.get(tensor), self._annotations.call, self._annotations
        if operation is None:
            return True
        call = operation.call

        def before(one: Operation) -> list[Operation]:
            """Return the operations within the call whose results one used, if they depend on the model's inputs."""
            makers = (self._maker[t] for t in one.inputs if t in self._live and t in self._maker)
            return [maker for maker in makers if self._within(maker.call, call)]

        def is_elsewhere(other: int) -> bool:
            """Return whether a value is made outside of the call."""
            at = call_of[self._graph.producer[other]]
            return at is None or not self._within(at, call)

        wanted = {one.call for one in reached([operation], before)} - {call}
        behind = nodes_behind(self._graph, [value], is_elsewhere)
        found = {
            c for n in behind for c in (call_of[n], *annotations.merged.get(n, ()), *annotations.equal_at.get(n, ()))
        }
        return wanted.intersection(self._tagged) <= found

    def is_used_outside(self, tensor: int, call: int) -> bool:
        """Return whether an operation outside of a call used a tensor, or may have: a trace may lack operations."""
        is_used = any(not self._within(operation.call, call) for operation in self._readers.get(tensor, ()))
        return is_used or tensor in self._returned or not self._maker

    def is_read_outside(self, value: int, call: int) -> bool:
        """Return whether a node outside of a call reads a value, and not only its shape, or the graph returns it."""
        return value in self._graph.outputs or bool(self._readers_outside(value, call))

    def is_made_alike(self, value: int, tensor: int) -> bool:
        """Return whether a value's node has the name of the operation that made a tensor."""
        operation = self._maker.get(tensor)
        node = self._graph.nodes[self._graph.producer[value]]
        return operation is not None and plain_name(node.op_type) == plain_name(operation.name)

    def pairs(self, candidates: Candidates) -> dict[int, int]:
        """Return the value of each tensor, by its id, for which the candidates and the clues leave only one."""
        left = {tensor: set(values) for tensor, values in candidates.items()}
        found = _settled(left)
        said = {tensor: self._of_tensor(tensor) for tensor, values in left.items() if values}
        shown = {value: self._of_value(value) for values in left.values() for value in values}
        found |= _paired(left, _without_names(said), _without_names(shown)) | _settled(left)
        return found | _paired(left, said, shown, all_or_none=True)

    def _of_value(self, value: int) -> set[Clue]:
        """Return the clues of a value: those of the nodes of its call that make it, and of who reads it."""
        graph, call_of = self._graph, self._annotations.call
        node = graph.producer[value]
        if node == NOWHERE:
            return {("made of", graph.names[value])}
        call = call_of[node]

        def is_elsewhere(other: int) -> bool:
            """Return whether another call makes a value, or it is no data."""
            return call_of[graph.producer[other]] != call or other in graph.data_independent

        behind = nodes_behind(graph, [value], is_elsewhere)
        clues: set[Clue] = {("made by", plain_name(graph.nodes[node].op_type))}
        for each in behind:
            clues.add(("made with", plain_name(graph.nodes[each].op_type)))
            read = [v for v in graph.needs[each] if v not in graph.data_independent and v not in graph.stored]
            makers = {v: graph.producer[v] for v in read if graph.producer[v] not in behind}
            clues |= {("made of", graph.names[v] if n == NOWHERE else call_of[n]) for v, n in makers.items()}
            made = graph.writes[each]
            taken = {v for v in made if v == value or not behind.isdisjoint(graph.readers[v])}
            clues |= {("item", (len(made), place)) for place, v in enumerate(made) if v in taken and len(made) > 1}
        readers = self._readers_outside(value, call or ROOT_CALL)
        clues |= {("read in", call_of[reader]) for reader in readers}
        clues |= {("read by", plain_name(graph.nodes[reader].op_type)) for reader in readers}
        places = [place for place, output in enumerate(graph.outputs) if output == value]
        clues |= {("returned at", place) for place in places if self._has_all_results}
        return clues | {("returned as", graph.names[value]) for _ in places}

    def _of_tensor(self, tensor: int) -> set[Clue]:
        """Return the clues of a tensor: those of the operations of its call that made it, and of who used it."""
        operation = self._maker.get(tensor)
        clues = set(self._returned.get(tensor, ()))
        if operation is None:
            return clues | ({("made of", self._inputs[tensor])} if tensor in self._inputs else set())
        call = operation.call
        clues.add(("made by", plain_name(operation.name)))

        def before(one: Operation) -> list[Operation]:
            """Return the operations of the same call whose results one used."""
            return [o for t in one.inputs if (o := self._maker.get(t)) and o.call == call]

        behind = reached([operation], before)
        used = {t for each in behind for t in each.inputs} | {tensor}
        for each in behind:
            clues.add(("made with", plain_name(each.name)))
            clues |= {("made of", self._inputs[t]) for t in each.inputs if t in self._inputs}
            clues |= {("made of", o.call) for t in each.inputs if (o := self._maker.get(t)) and o.call != call}
            made = each.outputs
            clues |= {("item", (len(made), place)) for place, t in enumerate(made) if t in used and len(made) > 1}
        readers = [o for o in self._readers.get(tensor, ()) if not self._within(o.call, call)]
        clues |= {("read in", reader.call) for reader in readers}
        return clues | {("read by", plain_name(reader.name)) for reader in readers}

    def _readers_outside(self, value: int, call: int) -> list[int]:
        """Return the nodes outside of a call that read a value, and not only its shape."""
        graph, call_of = self._graph, self._annotations.call
        readers = (n for n in graph.readers[value] if not graph.operators[n].reads_only_shape)
        return [n for n in readers if (at := call_of[n]) is None or not self._within(at, call)]


def _settled(left: dict[int, set[int]]) -> dict[int, int]:
    """Take the tensors out for which only one value is left, which no other tensor needs as much; return them."""
    found: dict[int, int] = {}
    while True:
        single = defaultdict(list)
        for tensor, values in left.items():
            if len(values) == 1:
                single[next(iter(values))].append(tensor)
        sure = {tensors[0]: value for value, tensors in single.items() if len(tensors) == 1}
        if not sure:
            return found
        found |= _taken_out(left, sure)


def _taken_out(left: dict[int, set[int]], pairs: Mapping[int, int]) -> Mapping[int, int]:
    """Take pairs out of the candidates that are left; return them."""
    for tensor in pairs:
        del left[tensor]
    for values in left.values():
        values.difference_update(pairs.values())
    return pairs


def _paired(left: dict[int, set[int]], said: _Held, shown: _Held, all_or_none: bool = False) -> dict[int, int]:
    """Take the tensors out that clues pair with values, given those of both; return the pairs.

    With `all_or_none`, the clues must pair all tensors that have values in common.
    """
    found: dict[int, int] = {}
    rivals = defaultdict(set)
    for tensor, values in left.items():
        for value in values:
            rivals[value].add(tensor)
    for group in list(components([t for t in left if left[t]], lambda t: (r for v in left[t] for r in rivals[v]))):
        around = {value for tensor in group for value in left[tensor]}
        pairs = _agreed(_holders(said, group), _holders(shown, around), left)
        if len(pairs) == len(group) or not all_or_none:
            found |= _taken_out(left, pairs)
    return found


def _agreed(tensors: _Holders, values: _Holders, left: Mapping[int, set[int]]) -> dict[int, int]:
    """Return the pairs of a tensor and a value that a clue makes and that no other clue contradicts."""
    shared = [(tensors[clue], values[clue]) for clue in tensors.keys() & values.keys()]
    made = {(*holders, *others) for holders, others in shared if len(holders) == len(others) == 1}
    times = [Counter(side) for side in zip(*made, strict=True)]
    return {t: v for t, v in made if times[0][t] == times[1][v] == 1 and v in left[t]}


def _holders(held: _Held, things: Collection[int]) -> _Holders:
    """Return for each clue those of some tensors or values for which it holds."""
    holders: dict[Clue, list[int]] = defaultdict(list)
    for thing in things:
        for clue in held[thing]:
            holders[clue].append(thing)
    return holders


def _without_names(held: _Held) -> _Held:
    """Return the clues that do not hang on the names of operators."""
    return {thing: {clue for clue in clues if clue[0] not in _NAMED} for thing, clues in held.items()}
