"""Divide a row of units into parts of neighbours: within limits, as balanced as can be, with little between them.

Whatever counts of a part only grows with it. So, for some limits, parts that are filled from the left until the next
unit does not fit are as few as can be, and the least limit with which N parts are enough is found by halving. Of all
divisions within a limit, the one with the least between its parts is found by dynamic programming over the places of
cuts. Six units, two parts; between two units stands what crosses there:

    3  2|9  4  1|1  5|2  6|5  2          16 each would be even, and 18 and 14 is the best that there is,
    [ 3+2+4+1.. ]                        but a cut a unit earlier or later may have much less across

The k-th cut lies between where it is if all parts from the right are as full as can be, and where it is if all from the
left are. The tighter the limit, the fewer places these are, and no others are looked at.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Generic, Protocol, TypeVar

M = TypeVar("M")
Measured = TypeVar("Measured", contravariant=True)


class Window(Protocol[Measured]):
    """Some neighbours in a row of units, and what these amount to together by each measure."""

    def add(self, unit: int) -> None:
        """Take the next unit in on the right."""

    def drop(self, unit: int) -> None:
        """Leave a unit out, the first or the last one."""

    def amount(self, measure: Measured) -> int:
        """Return what the units amount to."""


@dataclass(frozen=True)
class Filled:
    """Parts that were filled from the left: how many, the largest amount of one, and the least that did not fit."""

    parts: int
    largest: int
    overflow: int


@dataclass(frozen=True)
class Limits(Generic[M]):
    """What parts may amount to.

    Attributes: `hard`, what none may exceed; `even`, what none of several units may exceed by the `measure`, None for
    no such limit: a unit that is larger than its share has a part of its own, and leaves the others as even as can be.
    """

    measure: M
    even: int | None
    hard: Mapping[M, int]

    def keeps(self, window: Window[M], is_single: bool) -> bool:
        """Return whether the units in a window can be a part."""
        is_even = is_single or self.even is None or window.amount(self.measure) <= self.even
        return is_even and all(window.amount(measure) <= limit for measure, limit in self.hard.items())


class Row(Generic[M]):
    """A row of units that is to be divided, with what crosses each place between two (that before unit i at i)."""

    def __init__(self, window: Window[M], crossing: Sequence[int]) -> None:
        """Take an empty window over the units, and what crosses; one number more than there are units."""
        self._window, self._crossing = window, crossing
        self.count = len(crossing) - 1

    def amount(self, units: range, measure: M) -> int:
        """Return the amount of some neighbours."""
        for unit in units:
            self._window.add(unit)
        found = self._window.amount(measure)
        for unit in units:
            self._window.drop(unit)
        return found

    def total(self, measure: M) -> int:
        """Return the amount of all units together."""
        return self.amount(range(self.count), measure)

    def largest(self, measure: M) -> tuple[int, int]:
        """Return the largest amount of a single unit, and that unit."""
        alone = [self.amount(range(unit, unit + 1), measure) for unit in range(self.count)]
        return max(alone), alone.index(max(alone))

    def fill(self, limits: Limits[M]) -> Filled:
        """Fill parts from the left; each unit is within the limits alone."""
        window, start, parts, largest, overflow = self._window, 0, 1, 0, 0
        for unit in range(self.count):
            window.add(unit)
            if not limits.keeps(window, is_single=unit == start):
                here = window.amount(limits.measure)
                overflow = min(overflow or here, here)
                window.drop(unit)
                largest = max(largest, window.amount(limits.measure))
                for old in range(start, unit):
                    window.drop(old)
                start, parts = unit, parts + 1
                window.add(unit)
        largest = max(largest, window.amount(limits.measure))
        for old in range(start, self.count):
            window.drop(old)
        return Filled(parts, largest, overflow)

    def least(self, parts: int, measure: M, limits: Mapping[M, int]) -> int | None:
        """Return the least that parts of several units need to amount to, so that so many are enough within limits.

        None if the limits alone need more. Where a single unit amounts to more than that, so does its part.
        """
        found = self.fill(Limits(measure, None, limits))
        if found.parts > parts:
            return None
        low, high = 0, found.largest
        while low < high:
            middle = (low + high) // 2
            found = self.fill(Limits(measure, middle, limits))
            if found.parts <= parts:
                high = middle
            else:
                low = max(found.overflow, low + 1)
        return high

    def divide(self, parts: int, limits: Limits[M]) -> list[range]:
        """Return exactly so many parts within limits with the least between them; such parts exist."""
        reach = self._reach(limits)
        first = [0] * (self.count + 1)  # the first unit of the longest part that ends before each unit
        for stop in range(1, self.count + 1):
            first[stop] = next(start for start in range(first[stop - 1], stop) if reach[start] >= stop)
        early, late = [self.count], [0]
        for _ in range(parts):
            early.append(first[early[-1]])
            late.append(reach[late[-1]] if late[-1] < self.count else self.count)
        early.reverse()
        places = [range(max(early[k], k), min(late[k], self.count - (parts - k)) + 1) for k in range(1, parts)]
        cuts = self._cheapest([range(1), *places, range(self.count, self.count + 1)], first)
        return [range(start, stop) for start, stop in pairwise(cuts)]

    def _cheapest(self, places: Sequence[range], first: Sequence[int]) -> list[int]:
        """Return a place for each cut, each reached from the one before; all together have the least across."""
        costs: list[float] = [0]
        origins: list[list[int]] = []
        for before, here in pairwise(places):
            window: deque[int] = deque()
            added, found, origin = before.start, [], []
            for stop in here:
                while added < min(stop, before.stop):
                    while window and costs[window[-1] - before.start] >= costs[added - before.start]:
                        window.pop()
                    window.append(added)
                    added += 1
                while window and window[0] < first[stop]:
                    window.popleft()
                found.append(costs[window[0] - before.start] + self._crossing[stop] if window else math.inf)
                origin.append(window[0] if window else before.start)
            costs, origins = found, [*origins, origin]
        cuts = [self.count]
        for here, origin in zip(reversed(places[1:]), reversed(origins), strict=True):
            cuts.append(origin[cuts[-1] - here.start])
        return cuts[::-1]

    def _reach(self, limits: Limits[M]) -> list[int]:
        """Return for each unit the end of the longest part that begins with it."""
        window, stop, found = self._window, 0, []
        for start in range(self.count):
            while stop < self.count:
                window.add(stop)
                if not limits.keeps(window, is_single=stop == start):
                    window.drop(stop)
                    break
                stop += 1
            found.append(stop)
            window.drop(start)
        return found
