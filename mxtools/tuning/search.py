"""The search for the smallest model that meets a target, in few evaluations.

Everything in its smallest precision is tried first. If that is too much, the units are measured (`own_errors`), and
from then on each evaluation is of a plan: the precisions with the fewest bytes whose damages add up to at most what is
allowed. How much that is, is known for some metrics and learnt for others, since the sum is not quite what is measured:

    allowed    a plan of so much damage    measured
    1e-3       12.1 MB                     0.9e-3     good, so more is allowed: 1.1e-3
    1.1e-3     11.8 MB                     1.2e-3     too much
    1.05e-3    11.9 MB                     1.0e-3     good; the next smaller plan is the one that was too much

The last step is a repair: between both lie models that are no such plans, as when one unit's damage is less than it was
measured to be. Those that differ from the best in one unit, or in two, are tried, the least damage first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mxtools.tuning.own_errors import Measured
from mxtools.tuning.quantisers import FLOAT
from mxtools.tuning.units import Units
from mxtools.tuning.workshop import Evaluation, Workshop

GRID = 1 << 13
"""Steps that what is allowed is divided into, to find the best plan; damages are rounded up to these."""
WORTH = 0.01
"""The share of the bytes below which a smaller model is not worth another evaluation."""
ATTEMPTS = 2
"""Repairs that may fail one after the other."""
HALVINGS = 60
"""Plans that are looked at between one that is good and one that is too much; they are made for the asking."""
SLOPES = (0.3, 2.0)
"""By which power of the damage that was added up the measured one may grow."""
UNEXPLAINED = 30.0
"""A model that does so many times the damage of its units does some that was not measured."""
HOPELESS = 1.15
"""A plan that is expected to do so many times the damage that is allowed is not tried."""
EDGE = 0.97
"""The share of what is allowed that is aimed at."""

Options = Mapping[str, tuple[int, float]]
"""Bytes and damage of a unit by precision."""


@dataclass(frozen=True)
class Plan:
    """Precisions of units, with the damage that they add up to and the bytes of all units."""

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
            if all(sizes[precision] < size for size, _ in kept.values()):
                kept[precision] = sizes[precision], damages[precision]
        found[unit.name] = kept
    return found


def plan(choices: Mapping[str, Options], allowed: float) -> Plan:
    """Return the plan with the fewest bytes whose damages add up to at most what is allowed.

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
    return _plan(choices, {name: found[name] for name in choices})


def _costs(each: Options, allowed: float) -> list[int]:
    """Return damages in steps of the grid; more than the grid has where it is too much."""
    if not allowed:
        return [0 if not damage else GRID + 1 for _, damage in each.values()]
    return [min(GRID + 1, math.ceil(min(damage / allowed, 2.0) * GRID)) for _, damage in each.values()]


def _plan(choices: Mapping[str, Options], precisions: Mapping[str, str]) -> Plan:
    """Return the plan of some precisions."""
    pairs = [choices[name][precision] for name, precision in precisions.items()]
    kept = {name: precision for name, precision in precisions.items() if precision != FLOAT}
    return Plan(kept, sum(damage for _, damage in pairs), sum(size for size, _ in pairs))


class OutOfBudgetError(Exception):
    """The evaluations that a search may make are made."""


class Search:
    """A search with a budget of evaluations; `best` is what it found so far, None before the first good model."""

    def __init__(
        self,
        workshop: Workshop,
        allowed: float | None,
        measured: Callable[[], Measured],
        budget: int,
        comparable: bool = True,
    ) -> None:
        """Take what makes and judges models, the damage that is allowed if that is known, and what measures units.

        `comparable` says whether damages of models and of units are the same figure.
        """
        self._comparable = comparable
        self._workshop, self._allowed, self._measure, self._budget = workshop, allowed, measured, budget
        self.measured: Measured | None = None
        self.is_exhausted = False
        self._points: list[tuple[float, float]] = []

    @property
    def best(self) -> Evaluation | None:
        """The smallest model that meets the target; of equal ones the one with the least damage."""
        met = (e for e in self._workshop.evaluations if e.met)
        return min(met, key=lambda e: (e.size, e.verdict.damage), default=None)

    @property
    def nearest(self) -> Evaluation | None:
        """The model with the least damage, whether it meets the target or not."""
        return min(self._workshop.evaluations, key=lambda e: e.verdict.damage, default=None)

    def run(self) -> None:
        """Search until nothing is left that is worth an evaluation, or the budget is spent."""
        try:
            self._run()
        except OutOfBudgetError:
            self.is_exhausted = True

    def _run(self) -> None:
        smallest = {unit.name: _smallest(unit.precisions) for unit in self._workshop.units.all}
        whole = self._evaluated(smallest)
        if not whole.met:
            self.measured = self._measure()
            choices = self._without_culprits(options(self._workshop.units, self.measured), whole)
            ceiling = sum(max(d for _, d in each.values() if math.isfinite(d)) for each in choices.values())
            self._repair(choices, self._between(choices, ceiling))

    def _without_culprits(self, choices: dict[str, Options], whole: Evaluation) -> dict[str, Options]:
        """Return the choices without those that do damage which was not measured.

        That happens where nodes without weights go along into half precision, and overflow. One such unit is found by
        halving: of those that may be it, the first half is left in float32, and it is in there if that helps.
        """
        damages = (self.measured or Measured()).damages
        finite = {name: p for name, p in whole.precisions.items() if math.isfinite(damages[name][p])}
        if len(finite) < len(whole.precisions):
            whole = self._evaluated(finite)
        while whole.precisions and self._is_unexplained(whole, sum(damages[n][p] for n, p in whole.precisions.items())):
            group = list(whole.precisions)
            while len(group) > 1:
                half = group[: len(group) // 2]
                without = {name: p for name, p in whole.precisions.items() if name not in half}
                helps = self._evaluated(without).verdict.damage < whole.verdict.damage / UNEXPLAINED
                group = half if helps else group[len(half) :]
            precision = whole.precisions[group[0]]
            choices[group[0]] = {p: cost for p, cost in choices[group[0]].items() if p != precision}
            whole = self._evaluated({name: p for name, p in whole.precisions.items() if name != group[0]})
        return choices

    def _is_unexplained(self, found: Evaluation, expected: float) -> bool:
        """Return whether a model does far more damage than its units were measured to do."""
        damage = found.verdict.damage
        return not found.met and damage > UNEXPLAINED * expected and self._adds_up(damage)

    def _adds_up(self, damage: float) -> bool:
        """Return whether a damage can be compared with those of units, as that of a user's function cannot."""
        return self._comparable or damage == math.inf

    def _is_good(self, tried: Plan) -> bool:
        """Make and judge a plan, and learn from it how damages add up."""
        found = self._evaluated(tried.precisions)
        if tried.damage > 0 and 0 < found.verdict.damage < math.inf:
            self._points.append((tried.damage, found.verdict.damage))
        return found.met

    def _evaluated(self, precisions: Mapping[str, str]) -> Evaluation:
        if len(self._workshop.evaluations) >= self._budget:
            raise OutOfBudgetError
        return self._workshop.evaluate(precisions)

    def _between(self, choices: Mapping[str, Options], ceiling: float) -> Plan:
        """Return the plan with the fewest bytes that is good, where nothing is worth trying before one that is not."""
        good = plan(choices, 0.0)
        low, high = 0.0, 2 * ceiling
        largest = plan(choices, high)
        known = next((e for e in self._workshop.evaluations if e.precisions == largest.precisions), None)
        if known and known.met:
            return largest
        bad = largest if known else None
        for _ in range(HALVINGS if ceiling else 0):
            if bad and good.size - bad.size <= WORTH * good.size:
                break
            allowed = self._aim(low, high, ceiling)
            tried = plan(choices, allowed)
            if tried.precisions == good.precisions:
                low = allowed
            elif (bad and tried.precisions == bad.precisions) or self._is_hopeless(tried):
                bad, high = tried, allowed
            elif self._is_good(tried):
                good, low = tried, allowed
            else:
                bad, high = tried, allowed
            if high - low <= high / GRID:
                break
        return good

    def _aim(self, low: float, high: float, ceiling: float) -> float:
        """Return what to allow next: where the measured damage is expected to be what is allowed, else in between."""
        between = math.sqrt((low or ceiling * 1e-6) * high)
        if not self._allowed or self._allowed <= 0:
            return between
        wanted, found = self._allowed * EDGE, self._nearest_point(self._allowed)
        aim = found[0] * (wanted / found[1]) ** (1 / found[2]) if found else wanted
        return aim if low < aim < high else between

    def _nearest_point(self, measured: float) -> tuple[float, float, float] | None:
        """Return the damage that was added up and the measured one of the nearest plan, and how one follows the other.

        The last is the power by which the measured one grows, of the two nearest plans.
        """
        near = sorted(self._points, key=lambda point: abs(math.log(point[1] / measured)))[:2]
        if not near:
            return None
        (added, found), slope = near[0], 1.0
        if len(near) > 1 and near[0][0] != near[1][0]:
            slope = math.log(near[0][1] / near[1][1]) / math.log(near[0][0] / near[1][0])
        return added, found, min(max(slope, SLOPES[0]), SLOPES[1])

    def _is_hopeless(self, tried: Plan) -> bool:
        """Return whether a plan can be expected to do far more damage than is allowed."""
        found = self._nearest_point(self._allowed) if self._allowed and self._allowed > 0 else None
        if not self._allowed or not found or not tried.damage:
            return False
        added, measured, slope = found
        expected: float = measured * (tried.damage / added) ** slope
        return expected > HOPELESS * self._allowed

    def _repair(self, choices: Mapping[str, Options], good: Plan) -> None:
        """Try models that differ a little from the best and are smaller."""
        failed = 0
        while failed < ATTEMPTS:
            tried = next(self._smaller(choices, good), None)
            if tried is None or self._is_hopeless(tried):
                return
            if self._is_good(tried):
                good, failed = tried, 0
            else:
                failed += 1

    def _smaller(self, choices: Mapping[str, Options], good: Plan) -> Iterator[Plan]:
        """Yield plans that differ from one in one unit or two and are worth trying, the least damage first."""
        moves = list(_moves(choices, good))
        downs, least = [m for m in moves if m[2] < 0], WORTH * good.size
        found: list[tuple[float, tuple[_Move, ...]]] = [(down[3], (down,)) for down in downs if -down[2] > least]
        found += [
            (down[3] + up[3], (down, up))
            for down in downs
            for up in moves
            if up[2] > 0 and up[0] != down[0] and -(down[2] + up[2]) > least
        ]
        for _, changes in sorted(found, key=lambda pair: pair[0]):
            precisions = {name: good.precisions.get(name, FLOAT) for name in choices}
            precisions |= {name: precision for name, precision, _, _ in changes}
            tried = _plan(choices, precisions)
            if not any(e.precisions == tried.precisions for e in self._workshop.evaluations):
                yield tried


_Move = tuple[str, str, int, float]
"""A unit, what it can be instead, and the difference of that in bytes and in damage."""


def _moves(choices: Mapping[str, Options], at: Plan) -> Iterator[_Move]:
    """Yield what a unit can be instead, with the difference in bytes and in damage."""
    for name, each in choices.items():
        size, damage = each[at.precisions.get(name, FLOAT)]
        for precision, (other, worse) in each.items():
            if precision != at.precisions.get(name, FLOAT) and math.isfinite(worse):
                yield name, precision, other - size, worse - damage


def _smallest(precisions: Sequence[str]) -> str:
    """Return the smallest of some precisions."""
    return min(precisions, key=lambda precision: BITS.get(precision, BITS_OF_OTHERS))


BITS = {"int4": 4, "int8": 8, "qdq": 8, "int8-weights": 9, "float16": 16}
BITS_OF_OTHERS = 8
"""Bits of a weight by precision, of weights quantised in blocks with their scales; of a user's command one guesses."""
