"""The search for the smallest model that meets a target, in few evaluations.

Everything in its smallest precision is tried first. If that is too much, the units are measured, and from then on each
evaluation is of a plan, the precisions of all units. Plans are rehearsed before: the model is run with the own errors
of their units added (`rehearsal`). That costs little, and what it says is nearly what is measured; by which factor they
differ is learnt from the models that are made. Of 1.00e-3 that is allowed:

    plan       rehearsed    factor    expected    measured
    12.1 MB    0.96e-3      1.00      0.96e-3     1.02e-3     too much, and the factor is 1.06
    12.3 MB    0.90e-3      1.06      0.95e-3     0.96e-3     good, and the factor is 1.065
    12.0 MB    0.97e-3      1.065     1.03e-3     -           a chance of 1 in 4 to save 2 % is not worth a model

Plans come from two places. Where damages just add up, the precisions with the fewest bytes that do at most some damage
are a knapsack; rehearsals tell how much that may be. And between such plans lie others: those that differ from the best
in one unit, or in two, are rehearsed, the least damage first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from mxtools.tuning.own_errors import Measured
from mxtools.tuning.plans import Options, Plan, Plans, options
from mxtools.tuning.rehearsal import Rehearsal
from mxtools.tuning.workshop import Evaluation, Workshop

WORTH = 0.01
"""The share of the bytes that another evaluation must be expected to save; twice as much after one that failed."""
AIMS = 6
"""Plans that are rehearsed before one is made."""
LOOKED_AT = 3
"""Plans that differ a little from the best and are rehearsed too."""
SLOPES = (0.3, 2.0)
"""By which power of the damage that was rehearsed a figure may change that is not of the outputs, as accuracy."""
LIKELY = (0.85, 1.15)
"""Factors that are expected of the first plan. That of everything small is a hint, of which half is believed.

Where residuals too go into half precision once all units do, it says nothing of plans in which some do not.
"""
UNEXPLAINED = 30.0
"""A model that does so many times the damage that was rehearsed does some that was not measured."""
SPREAD = 0.05
"""By how much of themselves damages differ from what is expected after rehearsals, as a standard deviation.

Seen on a few small trained models, once a factor for the precision had been learnt.
"""
EDGE = 0.95
"""The share of what is allowed that is aimed at until there is a good model: what comes later depends on that."""
FLOOR = 1e-2
"""The share of a damage that is too much which is taken for the least one worth a look."""
CLOSER = 1.05
"""Two damages of which one is at most so many times the other have nothing in between that is worth a look."""


class OutOfBudgetError(Exception):
    """The evaluations that a search may make are made."""


class Search:
    """A search with a budget of evaluations; `best` is what it found so far, None before the first good model."""

    def __init__(
        self, workshop: Workshop, rehearsal: Rehearsal, allowed: float, budget: int, comparable: bool = True
    ) -> None:
        """Take what makes and judges models, what rehearses them, and the damage that is allowed.

        `comparable` says whether damages of models and of rehearsals are the same figure.
        """
        self._workshop, self._rehearsal, self._comparable = workshop, rehearsal, comparable
        self._allowed, self._budget = allowed, budget
        self.is_exhausted = False
        self._points: list[tuple[float, float]] = []
        self._explored: list[Plan] = []

    @property
    def measured(self) -> Measured | None:
        """What was measured of the units, None where that was not needed."""
        return self._rehearsal.known

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
            choices = options(self._workshop.units, self._rehearsal.measured())
            whole = self._without_culprits(choices, whole)
            self._descend(Plans(choices, self._rehearsal.measured().alike), whole)

    def _without_culprits(self, choices: dict[str, Options], whole: Evaluation) -> Evaluation:
        """Take out of the choices those that do damage which was not measured; return everything small without them.

        That happens where nodes without weights go along into half precision, and overflow. One such unit is found by
        halving: of those that may be it, the first half is left in float32, and it is in there if that helps.
        """
        damages = self._rehearsal.measured().damages
        finite = {name: p for name, p in whole.precisions.items() if math.isfinite(damages[name][p])}
        if len(finite) < len(whole.precisions):
            whole = self._evaluated(finite)
        while whole.precisions and self._is_unexplained(whole):
            group = list(whole.precisions)
            while len(group) > 1:
                half = group[: len(group) // 2]
                without = {name: p for name, p in whole.precisions.items() if name not in half}
                helps = self._evaluated(without).verdict.damage < whole.verdict.damage / UNEXPLAINED
                group = half if helps else group[len(half) :]
            precision = whole.precisions[group[0]]
            choices[group[0]] = {p: cost for p, cost in choices[group[0]].items() if p != precision}
            whole = self._evaluated({name: p for name, p in whole.precisions.items() if name != group[0]})
        return whole

    def _is_unexplained(self, found: Evaluation) -> bool:
        """Return whether a model does far more damage than was rehearsed."""
        damage = found.verdict.damage
        adds_up = self._comparable or damage == math.inf  # what a user's function says cannot be compared
        return not found.met and adds_up and damage > UNEXPLAINED * self._rehearsal.damage(found.precisions)

    def _evaluated(self, precisions: Mapping[str, str]) -> Evaluation:
        if len(self._workshop.evaluations) >= self._budget:
            raise OutOfBudgetError
        return self._workshop.evaluate(precisions)

    def _descend(self, plans: Plans, whole: Evaluation) -> None:
        """Make plans that may be good and are smaller than the best, until none is worth it.

        `low` and `high` are the damages that were rehearsed of the largest that was good and the least that was not.
        """
        good, failed, low = plans.of(whole.precisions if whole.met else {}), 0, 0.0
        high = self._learnt(whole)
        while low * CLOSER < high:
            aim = self._aim(low, high)
            self._explore(plans, aim, good)
            first = self._within(EDGE * aim, good) if not good.precisions else None
            if self._comparable:
                tried = first or self._promising(aim, good, WORTH * 2**failed)
            else:
                tried = self._within(aim, good)
            if tried is None and self._comparable:
                return
            if tried is None:
                low = aim
                continue
            found = self._evaluated(tried.precisions)
            rehearsed = self._learnt(found)
            if found.met:
                good, failed, low = tried, 0, max(low, rehearsed)
            else:
                high, failed = min(high, rehearsed), failed + 1
            if self._comparable:
                low, high = 0.0, math.inf  # another plan that is rehearsed to do as much may do less

    def _promising(self, aim: float, good: Plan, least: float) -> Plan | None:
        """Return the plan that can be expected to save most bytes, by its chance to be good and the share it saves."""

        def worth(tried: Plan) -> float:
            damage = self._rehearsal.damage(tried.precisions)
            chance = 0.5 * math.erfc(math.log(damage / aim) / SPREAD / math.sqrt(2)) if damage and aim else not damage
            return chance * (1 - tried.size / good.size)

        found = max(self._explored, key=worth, default=None)
        return found if found and worth(found) >= least else None

    def _within(self, most: float, good: Plan) -> Plan | None:
        """Return the smallest plan that was rehearsed to do at most some damage and is smaller than a good one."""
        found = (each for each in self._explored if self._rehearsal.damage(each.precisions) <= most)
        smallest = min(found, key=lambda each: each.size, default=good)
        return smallest if smallest.size < (1 - WORTH) * good.size else None

    def _learnt(self, found: Evaluation) -> float:
        """Return the damage that was rehearsed of a model that was made, and remember how the measured one differs."""
        rehearsed = self._rehearsal.damage(found.precisions)
        if rehearsed > 0 and 0 < found.verdict.damage < math.inf:
            self._points.append((rehearsed, found.verdict.damage))
        return rehearsed

    def _aim(self, low: float, high: float) -> float:
        """Return the damage to rehearse at most so that what is measured is expected to be what is allowed."""
        wanted = max(self._allowed, 0.0)
        if self._comparable:
            return wanted / self._factor()
        aim = self._followed(wanted)
        return aim if low * CLOSER < aim < high else math.sqrt(max(low, FLOOR * high) * high)

    def _factor(self) -> float:
        """Return how many times the rehearsed damage a model is expected to do."""
        factors = [measured / rehearsed for rehearsed, measured in self._points]
        if len(factors) > 1:
            del factors[0]  # of everything small
        else:
            factors = [min(max(math.sqrt(factor), LIKELY[0]), LIKELY[1]) for factor in factors]
        return math.prod(factors) ** (1 / len(factors)) if factors else 1.0

    def _followed(self, wanted: float) -> float:
        """Return the damage to rehearse for a figure that is wanted, by the models whose figures are nearest to it."""
        if not wanted or not self._points:
            return 0.0
        near = sorted(self._points, key=lambda point: abs(math.log(point[1] / wanted)))[:2]
        (rehearsed, measured), slope = near[0], 1.0
        if len(near) > 1 and near[0][0] != near[1][0]:
            slope = math.log(near[0][1] / near[1][1]) / math.log(near[0][0] / near[1][0])
        found: float = rehearsed * (wanted / measured) ** (1 / min(max(slope, SLOPES[0]), SLOPES[1]))
        return found

    def _explore(self, plans: Plans, aim: float, good: Plan) -> None:
        """Rehearse plans that do about some damage, and note those that were not made yet.

        What is expected of a plan is corrected by what was rehearsed of the one before; a plan that is known already
        makes room for the next smaller damage.
        """
        self._explored = []
        for known in (None, good):
            allowed = aim
            for _ in range(AIMS if aim > 0 else 0):
                tried = plans.smallest(allowed, known)
                damage = self._rehearsal.damage(tried.precisions)
                if not damage or not tried.damage:
                    break
                corrected = aim * tried.damage / damage
                if tried in self._explored or self._is_made(tried):
                    corrected = min(corrected, allowed) / CLOSER
                else:
                    self._explored.append(tried)
                allowed = corrected
        for each in (good, *self._explored[-1:]):
            near = plans.near(each, WORTH * each.size, LOOKED_AT)
            self._explored += [other for other in near if other not in self._explored and not self._is_made(other)]

    def _is_made(self, tried: Plan) -> bool:
        return any(each.precisions == tried.precisions for each in self._workshop.evaluations)


def _smallest(precisions: Sequence[str]) -> str:
    """Return the smallest of some precisions."""
    return min(precisions, key=lambda precision: BITS.get(precision, BITS_OF_OTHERS))


BITS = {"int4": 4, "int8": 8, "qdq": 8, "int8-weights": 9, "float16": 16}
BITS_OF_OTHERS = 8
"""Bits of a weight by precision, of weights quantised in blocks with their scales; of a user's command one guesses."""
