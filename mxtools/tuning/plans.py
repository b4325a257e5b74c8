"""Plans: the precision of each unit, and the fewest bytes whose expected damage is at most what is allowed.

The error that a plan makes at the outputs is about the sum of those of its units. Their energies add up where they
point in different directions; where two point in the same, there is more. The length of an error is the root of the
unit's damage, and the cosine of the angle between two is known from runs with one of them each:

    unit     damage    length
    query    0.04      0.2
    key      0.09      0.3       cosine 0.5:   0.04 + 0.09 + 2 * 0.5 * 0.2 * 0.3 = 0.19 of both

Without the angles the best plan is a knapsack. The search begins there, and changes one unit or two at a time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mxtools.graph.shapes import Array
from mxtools.tuning.own_errors import Measured
from mxtools.tuning.quantisers import FLOAT
from mxtools.tuning.units import Assignment, Units, key_of

GRID = 1 << 13
"""Steps that what is allowed is divided into, to find the best knapsack; damages are rounded up to these."""
HALVINGS = 12
"""Knapsacks that are looked at for one whose damage with angles is allowed."""
STRETCH = 4.0
"""How many times what is allowed the damages of a knapsack may add up to, as errors may cancel out."""
LEAST = 1e-6
"""The share of a damage by which another must be less to count as less."""
CHANGES = 200
"""Changes of one unit or two that a plan gets at most."""

Options = Mapping[str, tuple[int, float]]
"""Bytes and damage of a unit by precision."""


@dataclass(frozen=True)
class Plan:
    """Precisions of units, with the damage that is expected of them and the bytes of all units."""

    precisions: dict[str, str]
    damage: float
    size: int


def options(units: Units, measured: Measured) -> dict[str, Options]:
    """Return what each unit can be, float32 first, without what another is better than in both."""
    found: dict[str, Options] = {}
    for unit in units.all:
        damages, sizes = measured.damages[unit.name], measured.sizes[unit.name]
        kept: dict[str, tuple[int, float]] = {FLOAT: (unit.size, 0.0)}
        for precision in sorted(unit.precisions, key=lambda p: (damages[p], sizes[p])):
            if all(sizes[precision] < size for size, _ in kept.values()) and math.isfinite(damages[precision]):
                kept[precision] = sizes[precision], damages[precision]
        found[unit.name] = kept
    return found


def knapsack(choices: Mapping[str, Options], allowed: float) -> dict[str, str]:
    """Return the precisions with the fewest bytes whose damages add up to at most what is allowed.

    That is a knapsack with one choice from each unit, solved exactly but for the rounding of damages: row by row, the
    fewest bytes of the units so far, for each damage on the grid.
    """
    fewest, taken = np.zeros(GRID + 1), list[np.ndarray[tuple[int], np.dtype[np.int64]]]()
    costs = {name: _costs(each, allowed) for name, each in choices.items()}
    for name, each in choices.items():
        rows = np.full((len(each), GRID + 1), math.inf)
        for row, ((size, _), cost) in enumerate(zip(each.values(), costs[name], strict=True)):
            if cost <= GRID:
                rows[row, cost:] = fewest[: GRID + 1 - cost] + size
        taken.append(rows.argmin(axis=0))
        fewest = rows.min(axis=0)
    at, found = GRID, dict[str, str]()
    for (name, each), choice in zip(reversed([*choices.items()]), reversed(taken), strict=True):
        number = int(choice[at])
        found[name] = list(each)[number]
        at -= costs[name][number]
    return {name: found[name] for name in choices}


def _costs(each: Options, allowed: float) -> list[int]:
    """Return damages in steps of the grid; more than the grid has where it is too much."""
    if not allowed:
        return [0 if not damage else GRID + 1 for _, damage in each.values()]
    return [min(GRID + 1, math.ceil(min(damage / allowed, 2.0) * GRID)) for _, damage in each.values()]


class Plans:
    """Plans of some units, by what each can be and how far the errors of two point in the same direction."""

    def __init__(self, choices: Mapping[str, Options], alike: Sequence[Sequence[float]]) -> None:
        """Take the choices of each unit, float32 first, and cosines of angles in the order of the units."""
        self._choices, self._names = choices, list(choices)
        self._alike = np.array(alike) if len(alike) else np.eye(len(choices))
        pairs = [(unit, option) for unit, each in enumerate(choices.values()) for option in range(len(each))]
        self._unit, self._option = np.array(pairs).T
        costs = [cost for each in choices.values() for cost in each.values()]
        self._sizes = np.array([size for size, _ in costs])
        self._lengths = np.sqrt([damage for _, damage in costs])

    def of(self, precisions: Assignment) -> Plan:
        """Return the plan of some precisions, by units; the others are in float32."""
        return self._plan(self._rows(precisions))

    def smallest(self, allowed: float, known: Plan | None = None) -> Plan:
        """Return a plan with few bytes that is expected to do at most some damage.

        It begins at a known plan if that is smaller than the best knapsack, and changes one unit or two as long as that
        saves bytes, or else damage at equal bytes, which leaves room for more.
        """
        found = self._knapsack(allowed)
        if known and known.damage <= allowed and known.size < self._sizes[found].sum():
            found = self._rows(known.precisions)
        for _ in range(CHANGES):
            better = self._changed(found, allowed)
            if better is None:
                break
            found = better
        return self._plan(found)

    def _knapsack(self, allowed: float) -> Array:
        """Return the largest knapsack that is expected to do at most some damage, with all angles."""
        low, high, found = 0.0, STRETCH * allowed, self._rows({})
        for _ in range(HALVINGS if allowed > 0 else 0):
            middle = (low + high) / 2
            tried = self._rows(knapsack(self._choices, middle))
            if self._damage(tried) <= allowed:
                low, found = middle, tried
            else:
                high = middle
        return found

    def _rows(self, precisions: Assignment) -> Array:
        """Return the number of the option of each unit, float32 where it has none."""
        first = np.searchsorted(self._unit, np.arange(len(self._names)))
        own = [list(self._choices[name]).index(precisions.get(name, FLOAT)) for name in self._names]
        return np.asarray(first + np.array(own))

    def _damage(self, rows: Array) -> float:
        lengths = self._lengths[rows]
        return max(0.0, float(lengths @ self._alike @ lengths))

    def _plan(self, rows: Array) -> Plan:
        chosen = [list(self._choices[name])[self._option[row]] for name, row in zip(self._names, rows, strict=True)]
        kept = {name: precision for name, precision in zip(self._names, chosen, strict=True) if precision != FLOAT}
        return Plan(kept, self._damage(rows), int(self._sizes[rows].sum()))

    def near(self, known: Plan, least: float, count: int) -> list[Plan]:
        """Return some plans that differ from one in one unit or two and save so many bytes, the least damage first."""
        rows = self._rows(known.precisions)
        changes = self._changes(rows)
        found = np.flatnonzero((changes.sizes < -least).ravel())
        order = found[np.argsort(changes.damages.ravel()[found], kind="stable")]
        plans = (self._plan(changes.made(rows, int(at))) for at in order[: 2 * count])  # each pair is there twice
        return list({key_of(each.precisions): each for each in plans}.values())

    def _changed(self, rows: Array, allowed: float) -> Array | None:
        """Return a plan in which one unit or two have another option: smaller, else as large and with less damage."""
        changes, whole = self._changes(rows), self._damage(rows)
        damages, sizes = changes.damages, changes.sizes
        smaller = (sizes < 0) & (whole + damages <= allowed)
        quieter = (sizes <= 0) & (damages < -LEAST * whole)
        if smaller.any():
            fewest = sizes[smaller].min()
            order = np.where(smaller & (sizes == fewest), damages, np.inf)
        elif quieter.any():
            order = np.where(quieter, damages, np.inf)
        else:
            return None
        return changes.made(rows, int(order.argmin()))

    def _changes(self, rows: Array) -> _Changes:
        """Return what it makes of damage and bytes to give one unit or two another option."""
        moves = np.flatnonzero(rows[self._unit] != np.arange(len(self._unit)))
        unit, lengths = self._unit[moves], self._lengths[rows]
        longer = self._lengths[moves] - lengths[unit]
        more = 2 * longer * (self._alike @ lengths)[unit] + longer**2
        larger = self._sizes[moves] - self._sizes[rows][unit]
        damages = more[:, None] + more[None, :] + 2 * np.outer(longer, longer) * self._alike[np.ix_(unit, unit)]
        sizes = np.where(unit[:, None] == unit[None, :], np.inf, larger[:, None] + larger[None, :])
        np.fill_diagonal(damages, more)
        np.fill_diagonal(sizes, larger)
        return _Changes(unit, moves, damages, sizes)


@dataclass(frozen=True)
class _Changes:
    """What other options of two units make of damage and bytes; on the diagonals, of one."""

    unit: Array
    moves: Array
    damages: Array
    sizes: Array

    def made(self, rows: Array, at: int) -> Array:
        """Return the options of units after a change, which is the number of an element."""
        found = rows.copy()
        for move in divmod(at, len(self.moves)):
            found[self.unit[move]] = self.moves[move]
        return found
