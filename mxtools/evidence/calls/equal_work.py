"""Calls that do work which an earlier call did already, so that an exporter computes it only once.

    x ─ act ─┬─ a                     PyTorch ran: act on x; in `block` act@1 on an equal x, then act@2 on what it made
             └─ block/act ─ b         the exporter: one node for act and act@1

Calls do equal work if their modules have the same class and equal weights, and if they read the same tensors and
returned equal ones. A tensor that a call was given, but that no operation in it read, does not count: rotary embeddings
often take the hidden states only for their type. Tensors are the same if the same operations made them of the same
inputs, not if their values are the same by chance.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from mxtools.scopes.scope import ROOT
from mxtools.traces.traced_calls import call_ends, first_equals, operations_reading

if TYPE_CHECKING:
    from mxtools.graph.index import Graph
    from mxtools.traces.sidecar import Call, Sidecar, TracedTensor

Found = tuple[tuple[int, ...], Sequence[int]]
"""The calls that some nodes can belong to, and these nodes."""


class EqualWork:
    """Describes the work of calls, so that equal work has equal descriptions."""

    def __init__(self, sidecar: Sidecar) -> None:
        self._calls, self._ends = sidecar.calls, call_ends(sidecar)
        self._first = first_equals(sidecar)
        self._read_in = {tensor: sorted(o.call for o in read) for tensor, read in operations_reading(sidecar).items()}
        self._class = {module.path: module.qualified_class for module in sidecar.modules}
        self._weights: dict[str, list[Hashable]] = {}
        for module in sidecar.modules:
            for weight in module.weights:
                for around in _paths_around(module.path):
                    own = module.path.removeprefix(around), weight.name, weight.shape, weight.fingerprint, weight.tied
                    self._weights.setdefault(around, []).append(own)

    def of(self, number: int) -> Hashable:
        """Return a description of a call's work: class, weights, what it read and what it returned."""
        call = self._calls[number]
        weights = tuple(self._weights.get(call.module, ()))
        read = tuple(tensor for tensor in call.inputs if self._is_read(tensor.id, number))
        made = tuple(self._first.get(tensor.id) for tensor in read)
        return self._class[call.module], weights, made, _values(read), _values(call.outputs)

    def _is_read(self, tensor: int, call: int) -> bool:
        """Return whether an operation in a call read a tensor; a trace without operations does not say."""
        calls = self._read_in.get(tensor, [])
        place = bisect_left(calls, call)
        return not self._read_in or (place < len(calls) and calls[place] < self._ends[call])

    def pairs(self, call: int, equal: int) -> Iterator[tuple[int, int]]:
        """Yield an equal pair of calls and the pairs of calls inside; nothing if they called different classes."""
        inner = list(zip(range(call, self._ends[call]), range(equal, self._ends[equal]), strict=False))
        is_same = self._ends[call] - call == self._ends[equal] - equal
        if is_same and all(self._class_of(one) == self._class_of(other) for one, other in inner):
            yield from inner

    @cached_property
    def repeated(self) -> set[int]:
        """The calls that only did again what an earlier call had done on the inputs of the model."""
        made = {tensor for tensor, first in self._first.items() if tensor != first}
        may_repeat = [n for n, call in enumerate(self._calls) if call.outputs and made.issuperset(_ids(call.outputs))]
        firsts = {self._first[tensor] for n in may_repeat for tensor in _ids(self._calls[n].outputs)}
        earliest: dict[Hashable, int] = {}
        for number, call in enumerate(self._calls):
            if not firsts.isdisjoint(_ids(call.outputs)):
                earliest.setdefault(self.of(number), number)
        return {number for number in may_repeat if earliest.get(self.of(number), number) != number}

    def _class_of(self, number: int) -> str:
        call: Call = self._calls[number]
        return self._class[call.module]


def without_repeated(graph: Graph, found: Iterable[Found], repeated: Callable[[], Collection[int]]) -> list[Found]:
    """Return what was found, without the calls that repeated earlier work if the exporter computed it only once.

    Each call of a module makes as many nodes. So an exporter left calls out if the nodes with certain candidates cannot
    be divided evenly among all of these, but can among those that repeated nothing. `repeated` returns the calls that
    did; it is called only if nodes cannot be divided.
    """
    pairs = list(found)
    counts: dict[tuple[int, ...], Counter[str]] = defaultdict(Counter)
    for calls, nodes in pairs:
        if len(calls) > 1:
            counts[calls].update(graph.nodes[node].op_type for node in nodes if not graph.is_constant(node))
    kept = {}
    for calls, numbers in counts.items():
        if _is_even(numbers, len(calls)):
            continue
        left = tuple(call for call in calls if call not in repeated())
        if 0 < len(left) < len(calls) and _is_even(numbers, len(left)):
            kept[calls] = left
    return [(kept.get(calls, calls), nodes) for calls, nodes in pairs]


def _is_even(numbers: Mapping[str, int], count: int) -> bool:
    """Return whether the nodes of each operator can be divided evenly."""
    return not any(number % count for number in numbers.values())


def _ids(tensors: Iterable[TracedTensor]) -> list[int]:
    return [tensor.id for tensor in tensors]


def _values(tensors: tuple[TracedTensor, ...]) -> tuple[Hashable, ...]:
    """Return what makes tensors equal: their fingerprints if they have any, else their identity."""
    return tuple((t.shape, t.dtype, t.fingerprint or t.id) for t in tensors)


def _paths_around(path: str) -> Iterator[str]:
    """Yield a module's path and those of the modules around it."""
    while path != ROOT:
        yield path
        path = path.rpartition(".")[0] or ROOT
