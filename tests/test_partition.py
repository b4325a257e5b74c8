"""Dividing a row of units: as good as trying all divisions, by other means."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, pairwise
from random import Random

import pytest

from mxtools.graph.walk import circles
from mxtools.split.division.partition import Limits, Row


class Sets:
    """A window over units that hold things; a thing counts once. Measure "w" is their weight, "n" their number."""

    def __init__(self, units: list[set[int]]) -> None:
        self.units = units
        self.inside: list[int] = []

    def add(self, unit: int) -> None:
        assert not self.inside or unit == max(self.inside) + 1
        self.inside.append(unit)

    def drop(self, unit: int) -> None:
        assert unit in (min(self.inside), max(self.inside))
        self.inside.remove(unit)

    def amount(self, measure: str) -> int:
        held = set().union(*(self.units[unit] for unit in self.inside)) if self.inside else set()
        return len(held) if measure == "n" else sum(held)


def drawn(chance: Random) -> tuple[Row[str], Sets, list[int]]:
    units = [{chance.randint(0, 30) for _ in range(chance.randint(0, 5))} for _ in range(chance.randint(1, 9))]
    crossing = [0, *(chance.randint(0, 20) for _ in units[1:]), 0]
    sets = Sets(units)
    return Row(sets, crossing), sets, crossing


def divisions(count: int, parts: int) -> Iterator[list[range]]:
    """Yield all divisions of so many units."""
    for cuts in combinations(range(1, count), parts - 1):
        places = [0, *cuts, count]
        yield [range(a, b) for a, b in pairwise(places)]


def _sum(sets: Sets, part: range, measure: str) -> int:
    held = set().union(*(sets.units[unit] for unit in part))
    return len(held) if measure == "n" else sum(held)


@pytest.mark.parametrize("seed", range(150))
def test_as_good_as_trying_everything(seed: int) -> None:
    chance = Random(seed)
    row, sets, crossing = drawn(chance)
    hard = {"n": chance.randint(3, 12)}
    if row.largest("n")[0] > hard["n"]:
        hard = {}
    parts = chance.randint(1, row.count)

    def uneven(division: list[range]) -> int:
        """Return what the largest part of several units amounts to."""
        return max((_sum(sets, part, "w") for part in division if len(part) > 1), default=0)

    within = [d for d in divisions(row.count, parts) if all(_sum(sets, p, "n") <= hard.get("n", 99) for p in d)]
    fewer = [
        d
        for count in range(1, parts + 1)
        for d in divisions(row.count, count)
        if all(_sum(sets, p, "n") <= hard.get("n", 99) for p in d)
    ]
    best = row.least(parts, "w", hard)
    assert best == min(map(uneven, fewer), default=None)
    if best is None:
        return
    even = best + chance.randint(0, 5)
    found = row.divide(parts, Limits("w", even, hard))
    possible = [d for d in within if uneven(d) <= even]
    assert found in possible
    assert sum(crossing[p.start] for p in found) == min(sum(crossing[p.start] for p in d) for d in possible)
    assert not sets.inside


def test_filling_from_the_left_needs_fewest() -> None:
    for seed in range(60):
        row, sets, _ = drawn(Random(seed))
        limit = max(row.largest("n")[0], 6)
        found = row.fill(Limits("w", None, {"n": limit}))
        possible = [
            count
            for count in range(1, row.count + 1)
            if any(all(_sum(sets, p, "n") <= limit for p in d) for d in divisions(row.count, count))
        ]
        assert found.parts == min(possible)


def test_circles() -> None:
    for seed in range(100):
        chance = Random(seed)
        count = chance.randint(1, 12)
        before = {n: [chance.randrange(count) for _ in range(chance.randint(0, 2))] for n in range(count)}
        reach = {n: {n} for n in before}
        for _ in before:
            for n, others in before.items():
                reach[n] |= {n}.union(*(reach[o] for o in others)) if others else set()
        found = circles(before, before.__getitem__)
        assert sorted(n for group in found for n in group) == list(range(count))
        for group in found:
            assert {m for m in before if m in reach[group[0]] and group[0] in reach[m]} == set(group)
        place = {n: number for number, group in enumerate(found) for n in group}
        assert all(place[o] <= place[n] for n, others in before.items() for o in others)
