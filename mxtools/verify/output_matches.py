"""Which tensors of an altered graph stand for what PyTorch's modules returned.

In an optimised or quantised graph values differ and names are lost, so the tags tell it: a tensor that a module
returned is one of its shape that a node of it makes; the one with equal values, else the one that leaves the module.
Where a node does the work of the next module too, and that has none, its value is either's, whichever it is nearer to.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from mxtools.graph.index import NOWHERE
from mxtools.graph.shapes import Array, Shapes, torch_kind
from mxtools.graph.walk import values_after
from mxtools.runtime.distance import Distance, distance
from mxtools.scopes.annotations import Annotations
from mxtools.traces.sidecar import Sidecar, TracedTensor, call_ends, call_times, calls_returning, returned_tensors
from mxtools.traces.values import Values


@dataclass(frozen=True)
class OutputMatch:
    """A value of the graph that stands for a tensor of the trace, and how far it is from it."""

    value: int
    distance: Distance
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


EQUAL = 1e-3
"""Relative error up to which values are equal: exporters reorder sums."""

HARMLESS = 1e-5
"""The part of a module's error, or of 1 where that is less, up to which what is left of it has no effect."""

_Rank = tuple[bool, bool, float, int]


def has_no_effect(inner: Distance, outer: Distance, tolerance: float) -> bool:
    """Tell whether nothing is left of a module's error in what its caller returns."""
    return outer.relative <= min(tolerance, HARMLESS * max(1.0, inner.relative))


class OutputMatches:
    """Finds, while the values of a graph come by, the best one for each tensor that a call returned.

    Attributes: `makers`, the innermost call that returned each tensor, by its id; `tensors`, these by id, in the order
    in which they came to be; once settled, `standing`, the ids of the tensors by the value that stands for them, and
    `harmless`, those of tensors that differ without an effect on what the caller returned.
    """

    def __init__(self, annotations: Annotations, shapes: Shapes, sidecar: Sidecar, values: Values) -> None:
        """Look for candidates."""
        self._annotations, self._shapes, self._values = annotations, shapes, values
        self._graph, self._calls, self._ends = annotations.graph, sidecar.calls, call_ends(sidecar)
        self.makers = {tensor: calls[-1] for tensor, calls in calls_returning(sidecar).items()}
        known = {t.id: t for call in sidecar.calls for t in call.outputs if t.id in self.makers}
        _, _, born = call_times(sidecar)
        self.tensors = {number: known[number] for number in sorted(known, key=born.__getitem__)}
        self._wanting: dict[int, list[TracedTensor]] = defaultdict(list)
        self._best: dict[int, tuple[_Rank, OutputMatch]] = {}
        self._merged: dict[int, set[int]] = {}
        self.standing: dict[int, int] = {}
        self.harmless: set[int] = set()
        for number, candidates in self._candidates().items():
            for value in candidates:
                self._wanting[value].append(self.tensors[number])

    @property
    def wanted(self) -> dict[int, int]:
        """The values to show, with the bytes that each takes, estimated."""
        return {value: 8 * ((s.count if (s := self._shapes[value]) else 0) or 0) for value in sorted(self._wanting)}

    def __getitem__(self, tensor: int) -> OutputMatch | None:
        """Give what stands for a tensor, None where nothing does."""
        return self._best[tensor][1] if tensor in self._best else None

    def show(self, value: int, array: Array) -> None:
        """Compare a value with the tensors that it may stand for.

        One that is not equal must leave the module, and be none of the other tensors that the module returned.
        """
        apart = {t.id: error for t in self._wanting.get(value, ()) if (error := self.apart(array, t))}
        equal = {number for number, error in apart.items() if error.relative <= EQUAL}
        for number, error in apart.items():
            call = self.makers[number]
            beside = equal.intersection(t.id for t in self._calls[call].outputs)
            if number in equal or (not beside and self._annotations.is_read_outside(value, call)):
                rank = (number in equal, array.shape == self.tensors[number].shape, -error.relative, value)
                if number not in self._best or rank > self._best[number][0]:
                    self._best[number] = rank, OutputMatch(value, error, array.shape, array.dtype)

    def settle(self, tolerance: float) -> None:
        """When all values were shown: drop what stands for nothing.

        A value is one of the tensors that a module returned. One that several modules end in is that of the module that
        it is nearest to. A module without a node has none that is not right: nothing but the values tells that it is
        there. And a wrong one that makes nothing wrong stands for nothing: a node that does more than one module's work
        hides what it computes between.
        """
        self._settle_results()
        self._settle_merged(tolerance)
        wrong = [number for number, (_, s) in self._best.items() if not s.distance.relative <= tolerance]
        self.harmless = {number for number in wrong if self._is_harmless(number, tolerance)}
        known = [number for number in reversed(self.tensors) if number not in self.harmless]
        self.standing = {s.value: number for number in known if (s := self[number])}

    def _settle_results(self) -> None:
        for call in self._calls:
            taken: dict[int, int] = {}
            for number in (t.id for t in returned_tensors(call) if t.id in self._best):
                rank, match = self._best[number]
                other = taken.setdefault(match.value, number)
                if other != number and not (rank[0] and self._best[other][0][0]):
                    less, taken[match.value] = sorted((number, other), key=lambda n: self._best[n][0])
                    del self._best[less]

    def _settle_merged(self, tolerance: float) -> None:
        for number, sources in self._merged.items():
            mine = self._best.pop(number, None)
            if mine is None or not mine[1].distance.relative <= tolerance:
                continue
            same = [s for s in sources if (other := self[s]) and other.value == mine[1].value]
            nearer = [s for s in same if self._best[s][1].distance.relative <= mine[1].distance.relative]
            if not nearer:
                self._best[number] = mine
                for source in same:
                    del self._best[source]

    def _is_harmless(self, number: int, tolerance: float) -> bool:
        """Tell whether what the nearest caller returned of its own depends on a wrong value, and is right still."""
        _, wrong = self._best[number]
        caller, own = self._calls[self.makers[number]].parent, list[OutputMatch]()
        while caller is not None and not own:
            own = [s for t in returned_tensors(self._calls[caller]) if t.id != number and (s := self[t.id])]
            caller = self._calls[caller].parent
        right = all(has_no_effect(wrong.distance, s.distance, tolerance) for s in own)
        return right and not {s.value for s in own}.isdisjoint(values_after(self._graph, wrong.value))

    def apart(self, array: Array, tensor: TracedTensor) -> Distance | None:
        """Compare an array with a recorded tensor, None where it is another kind of thing, or nothing is recorded."""
        kind = "i" if array.dtype.kind == "u" else array.dtype.kind
        if array.size != prod(tensor.shape) or kind != torch_kind(tensor.dtype):
            return None
        recorded = self._values.get(str(tensor.id))
        return None if recorded is None else distance(array, recorded)

    def ending(self, tensor: TracedTensor) -> list[TracedTensor]:
        """Give a tensor and those of modules without nodes that may end in the same value."""
        return [tensor, *(self.tensors[n] for n, sources in self._merged.items() if tensor.id in sources)]

    def recorded(self, value: int) -> Array | None:
        """Give what was recorded of the tensor that a value stands for, in the value's type and shape."""
        number = self.standing.get(value)
        array = self._values.get(str(number))
        if number is None or array is None:
            return None
        match = self._best[number][1]
        return array.astype(match.dtype).reshape(match.shape)

    def _candidates(self) -> dict[int, list[int]]:
        """Give the values of the main graph that may stand for each tensor, by its id.

        Where no node is left of a call, one that made what it works on may do its work too.
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
                self._merged[number] = {s for t in given for s in (t, *self._merged.get(t, ()))}
                inside = {v for t in given for v in found[t]}
            found[number] = [v for v in inside if (shape := self._shapes[v]) is None or shape.fits(tensor)]
        return found
