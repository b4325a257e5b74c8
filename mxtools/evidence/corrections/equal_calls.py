"""Calls that do the same work on the same tensors, so that the exporter computed only one of them.

    t ─ Sigmoid ─ Mul ─s─┬─ Gemm ─        blocks.0.time
        ───────────────  └─ Gemm ─        blocks.1.time
        blocks.0.act

    PyTorch ran: blocks.0.act on t, blocks.0.time on s; blocks.1.act on t, blocks.1.time on an equal s

The exporter sees that Sigmoid and Mul exist already. So `blocks.1.act` has no node, although the nodes of
`blocks.0.act` do its work. The obvious rule, that a module without nodes was folded into its neighbour, would make it a
part of `blocks.1.time`, and a cut of `blocks.1` would begin in the middle.

A call without nodes is equal to one with nodes if both modules have the same class and equal weights, and both calls
read the same tensors and returned equal ones. A tensor that a call was given, but that no operation in it read, does
not count: rotary embeddings often take the hidden states only for their type. Then the calls inside them are equal too,
one by one. Tensors are the same if the same operations made them of the same inputs, not if their values are the same
by chance.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable, Iterator
from typing import TYPE_CHECKING

from mxtools.evidence.absent import calls_with_nodes, is_vacuous
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes.scope import ROOT
from mxtools.traces.traced_calls import call_ends, first_equals, operations_reading

if TYPE_CHECKING:
    from mxtools.traces.sidecar import Call, Sidecar, TracedTensor


def find_equal_calls(model: WorkingModel) -> None:
    """Note for each call without nodes the equal call whose nodes do its work.

    Does nothing without a trace, since the trace says what each call was given and returned.
    """
    annotations, sidecar = model.annotations, model.traced
    if not sidecar:
        return
    with_nodes = calls_with_nodes(annotations)
    without = [c for c, call in enumerate(sidecar.calls) if c not in with_nodes and not is_vacuous(call)]
    if not without:
        return
    work = _Work(sidecar)
    first: dict[Hashable, int] = {}
    for call in sorted(with_nodes):
        first.setdefault(work.of(call), call)
    for call in without:
        equal = first.get(work.of(call))
        if equal is not None and call not in annotations.equal:
            annotations.equal.update(work.pairs(call, equal))


class _Work:
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

    def _class_of(self, number: int) -> str:
        call: Call = self._calls[number]
        return self._class[call.module]


def _values(tensors: tuple[TracedTensor, ...]) -> tuple[Hashable, ...]:
    """Return what makes tensors equal: their fingerprints if they have any, else their identity."""
    return tuple((t.shape, t.dtype, t.fingerprint or t.id) for t in tensors)


def _paths_around(path: str) -> Iterator[str]:
    """Yield a module's path and those of the modules around it."""
    while path != ROOT:
        yield path
        path = path.rpartition(".")[0] or ROOT
