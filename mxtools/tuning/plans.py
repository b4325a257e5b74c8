"""Plans: a precision for each unit, such that they have few bytes and do at most the damage that is allowed.

The error of a unit at the outputs is a vector, one number for each element of the outputs. Its squared length stands
for the damage of the unit. The error of a plan is about the sum of the errors of its units. Where two are at right
angles, their damages add up. Where they point in the same direction, both together do more, in opposite directions
less. The cosines are known from runs in which one unit at a time has an error (`rehearsal.alike`):

    unit     damage    length
    query    0.04      0.2
    key      0.09      0.3       cosine 0.5:   0.04 + 0.09 + 2 * 0.5 * 0.2 * 0.3 = 0.19 of both

    all units:   damage = the sum of cosine[i, j] * length[i] * length[j] over all pairs, with i = j too

If the angles are left out, the best plan is the solution of a knapsack problem (`knapsack`). The search begins with
that. Then it changes the precision of one unit or two at a time, as long as that gives a better plan.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mxtools.graph.shapes import Array
from mxtools.tuning.own_errors import Measured
from mxtools.tuning.quantisers import FLOAT
from mxtools.tuning.units import Assignment, Unit, Units, key_of

MARGIN = 0.03
"""By what share a unit or a model must be faster than it is in float32; what is less may be chance."""
GRID = 1 << 13
"""The number of equal steps that the allowed damage is divided into for a knapsack; damages are rounded up to steps."""
HALVINGS = 12
"""How many knapsacks are tried, by halving, to find one that does at most the allowed damage with all angles."""
STRETCH = 4.0
"""The damages in a knapsack may add up to this many times what is allowed, because errors may cancel out."""
LEAST = 1e-6
"""A damage counts as less than that of the whole plan only if it is less by this share of it."""
CHANGES = 200
"""How many changes, each of one unit or two, a plan gets at most."""

Options = Mapping[str, tuple[int, float]]
"""What a unit can be: its cost and its damage, by precision. The cost is in bytes, or in nanoseconds of a run."""


@dataclass(frozen=True)
class Plan:
    """The precisions of all units.

    Attributes: `precisions`, by unit, without those in float32; `damage`, what they are expected to do; `cost`, that
    of all units, those in float32 too.
    """

    precisions: dict[str, str]
    damage: float
    cost: int


def costs(unit: Unit, measured: Measured) -> dict[str, int]:
    """Return what a unit costs in each precision: nanoseconds if it was timed, else bytes.

    A precision that is not faster than float32 by more than MARGIN costs as much as that.
    """
    if unit.name not in measured.times:
        return {FLOAT: unit.size} | measured.sizes[unit.name]
    times = measured.times[unit.name]
    usual = times[FLOAT]
    found = {precision: times.get(precision, usual) for precision in unit.precisions}
    return {FLOAT: usual} | {p: taken if taken < (1 - MARGIN) * usual else usual for p, taken in found.items()}


def options(units: Units, measured: Measured) -> dict[str, Options]:
    """Return the options of each unit by its name: float32 first, then by damage.

    Left out are precisions with an infinite damage, and those that are worse than another one or equal to it in both
    bytes and damage.
    """
    found: dict[str, Options] = {}
    for unit in units.all:
        damages, own = measured.damages[unit.name], costs(unit, measured)
        kept: dict[str, tuple[int, float]] = {FLOAT: (own[FLOAT], 0.0)}
        for precision in sorted(unit.precisions, key=lambda p: (damages[p], own[p])):
            if all(own[precision] < cost for cost, _ in kept.values()) and math.isfinite(damages[precision]):
                kept[precision] = own[precision], damages[precision]
        found[unit.name] = kept
    return found


def knapsack(choices: Mapping[str, Options], allowed: float) -> dict[str, str]:
    """Return the precision of each unit such that they have the fewest bytes, and damages add up to at most `allowed`.

    This is the multiple-choice knapsack problem, solved by dynamic programming (Kellerer, Pferschy and Pisinger,
    Knapsack Problems, 2004, chapter 11); it is exact but for the rounding of damages. With a grid of 3 steps, and

        query    float32 9 bytes, int8 3 bytes and 1 step, int4 2 bytes and 2 steps
        key      float32 9 bytes, int8 3 bytes and 2 steps

    the table has the fewest bytes of the units so far, by how many steps of damage they may do:

        steps            0     1     2     3
        query            9     3     2     2
        query and key    18    12    11    6       6 = 3 of query with 1 step + 3 of key with 2 steps

    From the last column the way goes back, from unit to unit, to the precisions that made the 6.
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
    """Return the damages of a unit's options in steps of the grid, rounded up; GRID + 1 for any that is too large."""
    if not allowed:
        return [0 if not damage else GRID + 1 for _, damage in each.values()]
    return [min(GRID + 1, math.ceil(min(damage / allowed, 2.0) * GRID)) for _, damage in each.values()]


class Plans:
    """Finds plans, given the options of each unit and the angles between the errors of units.

    Inside, a plan is an array of rows, one for each unit: all options of all units are numbered in one list, and the
    row of a unit is the number of its option.
    """

    def __init__(self, choices: Mapping[str, Options], alike: Sequence[Sequence[float]]) -> None:
        """Take the options of each unit, float32 first, as `options` returns them.

        `alike` is the square matrix of cosines in the same order of units; if it is empty, all angles are right ones.
        """
        self._choices, self._names = choices, list(choices)
        self._alike = np.array(alike) if len(alike) else np.eye(len(choices))
        pairs = [(unit, option) for unit, each in enumerate(choices.values()) for option in range(len(each))]
        self._unit, self._option = np.array(pairs).T
        figures = [each for unit in choices.values() for each in unit.values()]
        self._costs = np.array([cost for cost, _ in figures])
        self._lengths = np.sqrt([damage for _, damage in figures])

    def of(self, precisions: Assignment) -> Plan:
        """Return the plan in which units have the given precisions, and all others float32.

        Raises ValueError if a precision is not among the options of its unit.
        """
        return self._plan(self._rows(precisions))

    def smallest(self, allowed: float, known: Plan | None = None) -> Plan:
        """Return a plan with few bytes that is expected to do at most the damage `allowed`.

        It begins with the best knapsack, or with the plan `known` if that is allowed and smaller. Then it changes one
        unit or two, again and again, as long as that saves bytes. A change that saves only damage is good too: it makes
        room for a later one that saves bytes.
        """
        found = self._knapsack(allowed)
        if known and known.damage <= allowed and known.cost < self._costs[found].sum():
            found = self._rows(known.precisions)
        for _ in range(CHANGES):
            better = self._changed(found, allowed)
            if better is None:
                break
            found = better
        return self._plan(found)

    def _knapsack(self, allowed: float) -> Array:
        """Return a knapsack that is expected to do at most some damage, as close to it as halving comes.

        A knapsack knows nothing of angles, so what it may do without them is sought, by halving, such that its damage
        with all angles is allowed.
        """
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
        """Return the number of each unit's option in the list of all options, float32 if it has no precision."""
        first = np.searchsorted(self._unit, np.arange(len(self._names)))
        own = [list(self._choices[name]).index(precisions.get(name, FLOAT)) for name in self._names]
        return np.asarray(first + np.array(own))

    def _damage(self, rows: Array) -> float:
        """Return the damage of a plan with all angles: lengths @ cosines @ lengths."""
        lengths = self._lengths[rows]
        return max(0.0, float(lengths @ self._alike @ lengths))

    def _plan(self, rows: Array) -> Plan:
        chosen = [list(self._choices[name])[self._option[row]] for name, row in zip(self._names, rows, strict=True)]
        kept = {name: precision for name, precision in zip(self._names, chosen, strict=True) if precision != FLOAT}
        return Plan(kept, self._damage(rows), int(self._costs[rows].sum()))

    def near(self, known: Plan, least: float, count: int) -> list[Plan]:
        """Return plans that differ from a known one in one unit or two and save more than `least` bytes.

        Those that do the least damage come first. There are between `count` and twice as many, if there are that many.
        """
        rows = self._rows(known.precisions)
        changes = self._changes(rows)
        found = np.flatnonzero((changes.sizes < -least).ravel())
        order = found[np.argsort(changes.damages.ravel()[found], kind="stable")]
        plans = (self._plan(changes.made(rows, int(at))) for at in order[: 2 * count])  # each pair is there twice
        return list({key_of(each.precisions): each for each in plans}.values())

    def _changed(self, rows: Array, allowed: float) -> Array | None:
        """Return the best plan in which one unit or two have another option, None if no such plan is better.

        The best is the smallest that does at most the damage `allowed`. If none is smaller than the plan, it is the one
        of equal size that does the least damage.
        """
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
        """Return how damage and bytes change if one unit or two get another option.

        A move gives one unit another option, by which its length grows by d. The damage then grows by

            2 * d * (cosines @ lengths)[unit] + d²          for one move, on the diagonals of the tables
            both of these + 2 * d_i * d_j * cosine[i, j]    for the moves i and j together

        Two moves of the same unit exclude each other, so their bytes are infinite.
        """
        moves = np.flatnonzero(rows[self._unit] != np.arange(len(self._unit)))
        unit, lengths = self._unit[moves], self._lengths[rows]
        longer = self._lengths[moves] - lengths[unit]
        more = 2 * longer * (self._alike @ lengths)[unit] + longer**2
        larger = self._costs[moves] - self._costs[rows][unit]
        damages = more[:, None] + more[None, :] + 2 * np.outer(longer, longer) * self._alike[np.ix_(unit, unit)]
        sizes = np.where(unit[:, None] == unit[None, :], np.inf, larger[:, None] + larger[None, :])
        np.fill_diagonal(damages, more)
        np.fill_diagonal(sizes, larger)
        return _Changes(unit, moves, damages, sizes)


@dataclass(frozen=True)
class _Changes:
    """How damage and bytes change by two moves at once; on the diagonals, by one.

    Attributes: `unit` and `moves`, of each move its unit and the number of the new option; `damages` and `sizes`,
    square tables over moves, of what is added to the damage and to the bytes of the plan.
    """

    unit: Array
    moves: Array
    damages: Array
    sizes: Array

    def made(self, rows: Array, at: int) -> Array:
        """Return the rows of a plan after a change; `at` is its position in the tables, counted row by row."""
        found = rows.copy()
        for move in divmod(at, len(self.moves)):
            found[self.unit[move]] = self.moves[move]
        return found
