"""What neighbours in a row of units amount to: bytes of weights, multiply-adds, time, bytes of activations.

Weights that two units read count once where both are in one part, and in each part where they are not. What a part has
copies of counts too: the constants that it reads, and what these and the shapes it reads are made of. So each stored
tensor and each such node has a count of what in the window reads it, and is in it while that is above zero. When a unit
comes or goes, only what it reads is touched, and further back only what begins or ceases to be in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum

from mxtools.graph.index import NOWHERE, Graph
from mxtools.scopes.parameters import stored_bytes, stored_tensors
from mxtools.split.division.units import Unit


class Measure(StrEnum):
    """What parts can be limited or balanced by."""

    BYTES = "bytes"
    MULTIPLY_ADDS = "multiply-adds"
    TIME = "time"
    ACTIVATIONS = "activations"


class Loads:
    """A window over units; see `partition.Window`."""

    def __init__(self, graph: Graph, row: Sequence[Unit], added: Mapping[Measure, Sequence[int]]) -> None:
        """Begin with no unit; `added` has, for measures other than bytes, the amount of each unit."""
        self._graph, self._added = graph, added
        self._stored = {value: stored_bytes(tensor) for value, tensor in stored_tensors(graph).items()}
        self._reads = [list(self._copied(unit)) for unit in row]
        self._counts: Counter[int] = Counter()
        self._amounts = dict.fromkeys((*added, Measure.BYTES), 0)

    def add(self, unit: int) -> None:
        """Take a unit in."""
        self._change(unit, 1)

    def drop(self, unit: int) -> None:
        """Leave a unit out."""
        self._change(unit, -1)

    def amount(self, measure: Measure) -> int:
        """Return what the units amount to."""
        return self._amounts[measure]

    def _copied(self, unit: Unit) -> Iterator[int]:
        """Yield the stored values that a unit reads, and those that its part may have copies of."""
        inside, graph = set(unit), self._graph
        for value in dict.fromkeys(value for node in unit for value in graph.needs[node]):
            if value in self._stored or (value in graph.data_independent and graph.producer[value] not in inside):
                yield value

    def _change(self, unit: int, by: int) -> None:
        for measure, amounts in self._added.items():
            self._amounts[measure] += by * amounts[unit]
        left = list(self._reads[unit])
        while left:
            value = left.pop()
            self._counts[value] += by
            if self._counts[value] != max(by, 0):  # it was in, or stays in
                continue
            if value in self._stored:
                self._amounts[Measure.BYTES] += by * self._stored[value]
            elif self._graph.producer[value] != NOWHERE:
                needs = self._graph.needs[self._graph.producer[value]]
                left += [v for v in needs if v in self._stored or v in self._graph.data_independent]


def crossing(graph: Graph, row: Sequence[Unit], sizes: Mapping[int, int]) -> list[int]:
    """Return for each place between units what the values that are made before and read behind it take.

    It is the number of their bytes, and where that is equal, their number. Shapes do not count: parts compute them, or
    are given a few numbers.
    """
    place = {node: number for number, unit in enumerate(row) for node in unit}
    changes = [0] * (len(row) + 2)
    for node, number in place.items():
        for value in graph.writes[node]:
            last = max((place.get(graph.top(reader), number) for reader in graph.readers[value]), default=number)
            if last > number and value not in graph.data_independent:
                weight = (sizes.get(value, 0) << _BITS) + 1
                changes[number + 1] += weight
                changes[last + 1] -= weight
    found, live = [], 0
    for change in changes[: len(row) + 1]:
        live += change
        found.append(live)
    return found


_BITS = 24
"""So many bits hold the number of values, below the number of their bytes."""
