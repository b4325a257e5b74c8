"""Which values of an altered graph stand for what PyTorch's modules returned.

    x ─ MatMul ─m─ Add ─a─ QuantizeLinear ─i─ DequantizeLinear ─d─ Relu ─ y
        one        one     one                one                  act

    PyTorch ran: `one`, given x, returned a tensor of 2x4; `act`, given that, returned y

To say how far `one` is off one must know which value is its result. In a quantised or optimised graph names are lost
and all values differ from PyTorch's. The obvious way, the nearest value of the right shape, flatters: that is a, or m
where the bias is small. But the rest of the graph works on d, with what quantising did to it.

So the tags decide: of the values of its shape that nodes of the module make, the result is one that is equal, up to
sums in another order, or else one that leaves the module: d, which `act` reads. Of several such it is the nearest.

A node may do the work of the next module too, which then has no node. Its value is the result of either module, the one
that it is nearer to.

What the whole model returned is the output of the graph that has its name, however near another value is: a graph that
does more to the right value, and returns that, is wrong.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from mxtools.graph.index import NOWHERE
from mxtools.graph.shapes import Array, Shapes, torch_kind
from mxtools.graph.walk import values_after
from mxtools.runtime.distance import UNLIKE, Distance, distance
from mxtools.runtime.tolerances import Tolerance
from mxtools.scopes.annotations import Annotations
from mxtools.scopes.hierarchy import ROOT_CALL
from mxtools.scopes.tags import class_of
from mxtools.traces.traced_calls import call_ends, call_times, callers, calls_returning, returned_tensors
from mxtools.traces.values import Values

if TYPE_CHECKING:
    from mxtools.traces.sidecar import Call, Sidecar, TracedTensor


@dataclass(frozen=True)
class OutputMatch:
    """A value of the graph that stands for a tensor of the trace: how far it is from that, its shape and its type."""

    value: int
    distance: Distance
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


EQUAL_TOLERANCE = 1e-3
"""Relative error up to which a value is equal to a tensor: exporters reorder sums, which changes the last digits."""

HARMLESS_SHARE = 1e-5
"""The share of a module's error that is left in the caller's result up to which the error had no effect there.

An error below 1 counts as 1: what is left is then rounding, which every module adds.
"""

_Rank = tuple[bool, bool, float, int]
"""How good a match is, the best one last: it is equal; its shape is the same; its error, negative; the value."""


def has_no_effect(inner: Distance, outer: Distance, tolerance: Tolerance) -> bool:
    """Return whether nothing is left of a module's error, `inner`, in what its caller returned, `outer`."""
    return tolerance.is_right(outer) and outer.relative <= HARMLESS_SHARE * max(1.0, inner.relative)


class OutputMatches:
    """Finds the value that stands for each tensor that a call returned, while the values of a run come by one by one.

    Attributes: `makers`, the innermost call that returned each tensor, by its id; `tensors`, these tensors by id, in
    the order in which they came to be. After `conclude`: `tensor_at`, the id of the tensor for which a value stands, by
    value; `harmless`, the ids of tensors that differ without an effect on what the caller returned.
    """

    def __init__(
        self, annotations: Annotations, shapes: Shapes, sidecar: Sidecar, values: Values, leaving: bool = False
    ) -> None:
        """Find the values that can stand for each tensor, from tags and shapes.

        With `leaving`, only what leaves a module counts. So it is if the trace is that of another graph, of which only
        what leaves modules is known too: an equal value that does not leave is then no result, but lies before a fault.
        """
        self._leaving = leaving
        self._annotations, self._shapes, self._values = annotations, shapes, values
        self._graph, self._calls, self._ends = annotations.graph, sidecar.calls, call_ends(sidecar)
        self.makers = {tensor: calls[-1] for tensor, calls in calls_returning(sidecar).items()}
        known = {t.id: t for call in sidecar.calls for t in call.outputs if t.id in self.makers}
        _, _, born = call_times(sidecar)
        self.tensors = {number: known[number] for number in sorted(known, key=born.__getitem__)}
        self._tensors_for: dict[int, list[TracedTensor]] = defaultdict(list)
        self._best: dict[int, tuple[_Rank, OutputMatch]] = {}
        self._without_nodes: dict[int, set[int]] = {}
        named = {self._graph.names[value]: value for value in self._graph.outputs}
        returned = returned_tensors(self._calls[ROOT_CALL])
        self._ending = {named[t.name]: t for t in returned if t.name in named and t.id in self.makers}
        self._ended: dict[int, OutputMatch] = {}
        self.tensor_at: dict[int, int] = {}
        self.harmless: set[int] = set()
        for number, candidates in self._candidates().items():
            for value in candidates:
                self._tensors_for[value].append(self.tensors[number])

    @property
    def wanted(self) -> dict[int, int]:
        """The values to compare, with the bytes that each takes, estimated."""
        return {value: self._shapes.bytes_of(value) for value in sorted({*self._tensors_for, *self._ending})}

    def __getitem__(self, tensor: int) -> OutputMatch | None:
        """Return what stands for a tensor, by its id, None where nothing does."""
        return self._best[tensor][1] if tensor in self._best else None

    def of_call(self, call: Call) -> list[tuple[TracedTensor, OutputMatch]]:
        """Return the tensors that a call returned for which something stands, with that."""
        ended = self._ended if call.parent is None else {}
        return [(t, match) for t in returned_tensors(call) if (match := ended.get(t.id) or self[t.id])]

    def is_right(self, tensor: int, tolerance: Tolerance) -> bool:
        """Return whether what stands for a tensor is right, by the class of the module that returned it."""
        match = self[tensor]
        return match is not None and tolerance.is_right(match.distance, self._class_of(tensor))

    def _class_of(self, tensor: int) -> str:
        return class_of(self._calls[self.makers[tensor]].tag)

    def compare(self, value: int, array: Array) -> None:
        """Compare a value with the tensors that it may stand for, and keep it where it is the best one so far.

        If it is not equal to a tensor it must leave the module, and not be equal to another result of that module.
        """
        if (end := self._ending.get(value)) and self.traced(end.id) is not None:
            self._ended[end.id] = OutputMatch(value, self.distance_to(array, end) or UNLIKE, array.shape, array.dtype)
        errors = {t.id: error for t in self._tensors_for.get(value, ()) if (error := self.distance_to(array, t))}
        equal = {number for number, error in errors.items() if error.relative <= EQUAL_TOLERANCE}
        for number, error in errors.items():
            call = self.makers[number]
            is_other = not equal.isdisjoint(t.id for t in self._calls[call].outputs)
            is_equal = number in equal and not self._leaving
            if is_equal or ((number in equal or not is_other) and self._annotations.is_read_outside(value, call)):
                rank = (number in equal, array.shape == self.tensors[number].shape, -error.relative, value)
                if number not in self._best or rank > self._best[number][0]:
                    self._best[number] = rank, OutputMatch(value, error, array.shape, array.dtype)

    def conclude(self, tolerance: Tolerance) -> None:
        """Drop the matches that turn out to be none, when all values were compared.

        - A value stands for one result of a module only, unless it is equal to several.
        - A module without nodes keeps its match only if that is right: nothing but the values says that it is there. If
          other modules end in the same value, it is that of the nearest.
        - A wrong value that makes nothing wrong in what the caller returned is `harmless`: it is no result of the
          module, as where a node does the work of several modules and hides what lies between, or it does not matter.
        """
        self._keep_one_result_a_value()
        self._decide_modules_without_nodes(tolerance)
        wrong = [number for number in self._best if not self.is_right(number, tolerance)]
        self.harmless = {number for number in wrong if self._is_harmless(number, tolerance)}
        known = [number for number in reversed(self.tensors) if number not in self.harmless]
        ends = {match.value: number for number, match in self._ended.items() if match.distance != UNLIKE}
        self.tensor_at = ends | {match.value: number for number in known if (match := self[number])}

    def _keep_one_result_a_value(self) -> None:
        """Where a value stands for two results of a call and is not equal to both, drop the worse match."""
        for call in self._calls:
            taken: dict[int, int] = {}
            for number in (t.id for t in returned_tensors(call) if t.id in self._best):
                rank, match = self._best[number]
                other = taken.setdefault(match.value, number)
                if other != number and not (rank[0] and self._best[other][0][0]):
                    worse, taken[match.value] = sorted((number, other), key=lambda n: self._best[n][0])
                    del self._best[worse]

    def _decide_modules_without_nodes(self, tolerance: Tolerance) -> None:
        """Give a value that may be the result of a module without nodes, or of one before it, to the nearest."""
        for number, sources in self._without_nodes.items():
            mine = self._best.pop(number, None)
            if mine is None or not tolerance.is_right(mine[1].distance, self._class_of(number)):
                continue
            same = [s for s in sources if (other := self[s]) and other.value == mine[1].value]
            nearer = [s for s in same if self._best[s][1].distance.relative <= mine[1].distance.relative]
            if not nearer:
                self._best[number] = mine
                for source in same:
                    del self._best[source]

    def _is_harmless(self, number: int, tolerance: Tolerance) -> bool:
        """Return whether what the caller returned depends on a wrong value, and is right nevertheless.

        The caller is the nearest one that returned something else than the tensor of that value itself.
        """
        _, wrong = self._best[number]
        own: list[OutputMatch] = []
        for caller in callers(self._calls, self.makers[number]):
            others = (tensor.id for tensor in returned_tensors(self._calls[caller]) if tensor.id != number)
            own = [match for other in others if (match := self[other])]
            if own:
                break
        is_right = all(has_no_effect(wrong.distance, match.distance, tolerance) for match in own)
        return is_right and not {match.value for match in own}.isdisjoint(values_after(self._graph, wrong.value))

    def distance_to(self, array: Array, tensor: TracedTensor) -> Distance | None:
        """Return how far an array is from what was recorded of a tensor.

        Return None where it has other elements, in number or kind, or where nothing was recorded.
        """
        kind = "i" if array.dtype.kind == "u" else array.dtype.kind
        if array.size != prod(tensor.shape) or kind != torch_kind(tensor.dtype):
            return None
        recorded = self._values.get(str(tensor.id))
        return None if recorded is None else distance(array, recorded)

    def with_same_end(self, tensor: TracedTensor) -> list[TracedTensor]:
        """Return a tensor, and those of modules without nodes that may have the same value."""
        return [tensor, *(self.tensors[n] for n, sources in self._without_nodes.items() if tensor.id in sources)]

    def recorded(self, value: int) -> Array | None:
        """Return what was recorded of the tensor for which a value stands, in the value's type and shape."""
        number = self.tensor_at.get(value)
        array: Array | None = self._values.get(str(number))
        if number is None or array is None:
            return None
        match = ended if (ended := self._ended.get(number)) and ended.value == value else self._best[number][1]
        return array.astype(match.dtype).reshape(match.shape)

    def traced(self, number: int) -> Array | None:
        """Return what was recorded of a tensor, by its id."""
        array: Array | None = self._values.get(str(number))
        return array

    def _candidates(self) -> dict[int, list[int]]:
        """Return the values of the main graph that may stand for each tensor, by its id.

        Where no node is left of a call, a node that made what it was given may do its work too.
        """
        made: dict[int, list[int]] = defaultdict(list)
        for node in self._graph.main:
            call = self._annotations.call[node]
            made[NOWHERE if call is None else call].extend(self._graph.writes[node])
        found: dict[int, list[int]] = {}
        merged = self._annotations.merged_away()
        for number, tensor in self.tensors.items():
            call = self.makers[number]
            if call in merged:
                continue
            inside = {v for at in range(call, self._ends[call]) for v in made.get(at, ())}
            if not inside:
                given = [t.id for t in self._calls[call].inputs if t.id in found]
                self._without_nodes[number] = {s for t in given for s in (t, *self._without_nodes.get(t, ()))}
                inside = {v for t in given for v in found[t]}
            found[number] = [v for v in inside if (shape := self._shapes[v]) is None or shape.fits(tensor)]
        return found
