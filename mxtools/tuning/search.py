"""The search for the smallest model, or the fastest, that meets a target, in few evaluations.

The first evaluation is of the model with all units in their smallest precisions. If it does too much damage, the units
are measured. For the fastest model they are measured at once, and what is said of bytes here is true of time. From then
on, each evaluation is of a plan, which has a precision for each unit.

Plans are rehearsed before one is made: the model as it is runs with the plan's units small (`rehearsal`). This costs
little, and mostly the damage is that of the real model within 1 %. In half precision it is not, because nodes without
weights follow the units there (`Units.steps`). So the search learns from the models that it makes the factor between
the two, and how far that factor can be trusted. If a damage of 1.00e-3 is allowed:

    plan       rehearsed    factor    expected    measured
    12.1 MB    0.97e-3      1.00      0.97e-3     1.02e-3     too much: the factor is 1.05, and may be off by 5 %
    12.3 MB    0.90e-3      1.05      0.95e-3     0.95e-3     good; the factor, now the mean of two, is 1.05
    12.2 MB    0.97e-3      1.05      1.02e-3     -           not made: a chance of 1 in 50 to save 1 %

Until there is a good model, the smallest plan is made whose damage is a little less than allowed, by as much as the
factor may be off. Then a plan is made only if its chance to be good, times the share of the bytes that it saves, is
large enough (WORTH).

The plans that are rehearsed come from two places. `Plans.smallest` finds the plan with the fewest bytes for a damage
that is estimated without a run; rehearsals correct the estimate. Others differ from the best plan so far in one unit or
two (`Plans.near`); those that should do the least damage are rehearsed.

A user's function, or a metric such as top1, says nothing that can be compared with the damage of a rehearsal (the
search is then not `comparable`). Still, models with more damage in rehearsals mostly have worse figures. So the search
narrows down the range between the largest rehearsed damage that was good and the smallest that was not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from mxtools.tuning.own_errors import Measured
from mxtools.tuning.plans import MARGIN, Options, Plan, Plans, costs, options
from mxtools.tuning.quantisers import FLOAT
from mxtools.tuning.rehearsal import Rehearsal
from mxtools.tuning.units import key_of
from mxtools.tuning.workshop import Evaluation, Workshop, weight_bytes

WORTH = 0.01
"""The share of the bytes that another evaluation must be expected to save.

It doubles with each evaluation beyond a tenth of the number of units, or beyond FEW.
"""
FEW = 4
"""Evaluations that a search of few units may make before they must be worth more."""
AIMS = 6
"""At most so many plans are rehearsed on the way to a damage, from each of the two plans to begin with (`_explore`)."""
LOOKED_AT = 3
"""At least so many plans that differ in one unit or two are rehearsed too, if there are any; at most twice as many."""
SLOPES = (0.3, 2.0)
"""The smallest and the largest exponent by which a figure that is not comparable depends on the rehearsed damage.

With 2, a loss of accuracy is four times as large if the rehearsed damage is twice as large.
"""
LIKELY = (0.85, 1.15)
"""The smallest and the largest factor that is expected of the first plan.

Only one factor is known then, of the model with everything small. It is believed by half: its square root counts. It
may mislead, as sums of residual connections go into half precision only if all units do (`Units.steps`).
"""
UNEXPLAINED = 30.0
"""If a model does more than so many times the rehearsed damage, something in it does damage that was not measured."""
SPREAD = (0.01, 0.05)
"""The smallest and the largest standard deviation that is assumed of the logarithm of measured / expected damage."""
FLOOR = 1e-2
"""The lower end of the damages that are tried, as a share of the smallest that was too much.

It counts as long as no model, or only one with less damage, is known to be good.
"""
CLOSER = 1.05
"""If one damage is at most so many times another one, no damage between them is tried."""


class OutOfBudgetError(Exception):
    """The search needs another evaluation, and has made all that its budget allows."""


class Search:
    """A search with a budget of evaluations.

    It may be interrupted at any time: `best` and `nearest` are what it found so far. `is_exhausted` says whether the
    budget ended it.
    """

    def __init__(
        self, workshop: Workshop, rehearsal: Rehearsal, allowed: float, budget: int, comparable: bool = True
    ) -> None:
        """Take what makes and judges models, what rehearses them, the allowed damage, and how many models may be made.

        `comparable` says whether the damages of models and of rehearsals are in the same unit.
        """
        self._workshop, self._rehearsal, self._comparable = workshop, rehearsal, comparable
        self._allowed, self._budget = allowed, budget
        self.is_exhausted = False
        self._points: list[tuple[float, float]] = []
        self._spread = SPREAD[1]
        self._of_plans = 0
        self._explored: list[Plan] = []

    @property
    def measured(self) -> Measured | None:
        """What was measured of the units, None if that was not needed so far."""
        return self._rehearsal.known

    @property
    def best(self) -> Evaluation | None:
        """The smallest model that meets the target, None if none does; of equally small ones that with less damage."""
        met = (e for e in self._workshop.evaluations if e.met)
        return min(met, key=lambda e: (self._cost(e), e.verdict.damage), default=None)

    def _cost(self, found: Evaluation) -> float:
        """Return the cost of a model; that of the model as it is counts less, so another must be faster by MARGIN."""
        return found.cost if found.precisions or found.seconds is None else (1 - MARGIN) * found.cost

    @property
    def nearest(self) -> Evaluation | None:
        """The model with the least damage, whether it meets the target or not; None before the first evaluation."""
        return min(self._workshop.evaluations, key=lambda e: e.verdict.damage, default=None)

    def run(self) -> None:
        """Search until nothing is left that is worth an evaluation, or the budget is spent.

        Raises InputError if the units cannot be measured.
        """
        try:
            self._run()
        except OutOfBudgetError:
            self.is_exhausted = True

    def _run(self) -> None:
        """Try everything small, or fast; if that does not meet the target, measure the units, and make plans.

        If no plan that saves anything is good, the model as it is may still be. It may also be the fastest, because a
        unit takes another time alone than in the model, so it is timed first.
        """
        whole = self._fastest() if self._workshop.is_timed else self._evaluated(self._smallest())
        if not whole.met:
            choices = options(self._workshop.units, self._rehearsal.measured())
            whole = self._without_culprits(choices, whole)
            self._descend(Plans(choices, self._rehearsal.measured().alike), whole)
        if self.best is None or self.best.size >= weight_bytes(self._workshop.units.model):
            self._evaluated({})

    def _smallest(self) -> dict[str, str]:
        """Return for each unit the precision with the fewest bits for a weight (BITS)."""
        units = self._workshop.units.all
        return {unit.name: min(unit.precisions, key=lambda p: BITS.get(p, BITS_OF_OTHERS)) for unit in units}

    def _fastest(self) -> Evaluation:
        """Return the evaluation of a model with each unit in the precision in which it takes the least time alone.

        In the model, units may take longer, so that it is slower than the model as it is. Then the half of them that
        gains least is left in float32, again and again, until the model is faster, or has no small unit.
        """
        times = {unit.name: costs(unit, self._rehearsal.measured()) for unit in self._workshop.units.all}
        fastest = {name: min(each, key=lambda precision: each[precision]) for name, each in times.items()}
        gains = {name: times[name][FLOAT] - times[name][precision] for name, precision in fastest.items()}
        kept = sorted((name for name, gain in gains.items() if gain), key=lambda name: gains[name], reverse=True)
        as_it_is = self._evaluated({})
        found = self._evaluated({name: fastest[name] for name in kept})
        while kept and self._cost(found) >= self._cost(as_it_is):
            kept = kept[: len(kept) // 2]
            found = self._evaluated({name: fastest[name] for name in kept})
        return found

    def _without_culprits(self, choices: dict[str, Options], whole: Evaluation) -> Evaluation:
        """Remove precisions that do damage which was not measured from `choices`; return everything small without them.

        Such damage comes from nodes without weights that follow a unit into half precision and overflow there. Units
        whose damage was measured as infinite are left out first. While the model still does far more damage than was
        rehearsed, one unit more is found by halving, with a real model for each step:

            left in float32    damage
            -                  1000      rehearsed were 2: one of a, b, c and d does damage that was not measured
            a b                1000      no help, so it is c or d
            c                  3         that helps, so it is c
        """
        damages = self._rehearsal.measured().damages
        kept = {name: p for name, p in whole.precisions.items() if math.isfinite(damages[name][p])}
        for name, precision in kept.items():
            if precision not in choices[name]:  # another one has no more bytes and does no more damage
                kept[name] = min(choices[name], key=lambda p: choices[name][p][0])
        kept = {name: p for name, p in kept.items() if p != FLOAT}
        if kept != whole.precisions:
            whole = self._evaluated(kept)
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
        """Return whether a model misses the target and does far more damage than was rehearsed."""
        damage = found.verdict.damage
        adds_up = self._comparable or damage == math.inf  # else the figure cannot be compared with that of a rehearsal
        return not found.met and adds_up and damage > UNEXPLAINED * self._rehearsal.damage(found.precisions)

    def _evaluated(self, precisions: Mapping[str, str]) -> Evaluation:
        """Return the evaluation of some precisions; OutOfBudgetError if it is a new one and the budget is spent.

        The model as it is does not count, since it is not made.
        """
        evaluations, key = self._workshop.evaluations, key_of(precisions)
        if precisions and all(each.key != key for each in evaluations):
            if sum(bool(each.precisions) for each in evaluations) >= self._budget:
                raise OutOfBudgetError
            if key not in self._workshop.known:
                self._rehearsal.rest()
        return self._workshop.evaluate(precisions)

    def _descend(self, plans: Plans, whole: Evaluation) -> None:
        """Make plans that may be good and are smaller than the best so far, until none is worth it.

        `whole` is the evaluation of everything small. `low` is the largest rehearsed damage of a model that was good,
        `high` the smallest of one that was not; they matter only if damages are not comparable.
        """
        good, low = plans.of(whole.precisions if whole.met else {}), 0.0
        high = self._learnt(whole)
        self._of_plans = len(self._points)
        while low * CLOSER < high:
            aim = self._aim(low, high)
            self._explore(plans, aim, good)
            first = self._within(aim * math.exp(-self._spread), good) if not good.precisions else None
            tried = first or self._promising(aim, good) if self._comparable else self._within(aim, good)
            if tried is None and self._comparable:
                return
            if tried is None:
                low = aim
                continue
            found = self._evaluated(tried.precisions)
            rehearsed = self._learnt(found)
            if found.met:
                good, low = tried, max(low, rehearsed)
            else:
                high = min(high, rehearsed)
            if self._comparable:
                low, high = 0.0, math.inf  # of two plans with the same rehearsed damage, one may still be good

    def _least(self) -> float:
        """Return the share of the bytes that the next evaluation must be expected to save.

        Ranking makes a model for each unit, and this should take a tenth of that. With 40 units, the first four
        evaluations need WORTH, the fifth twice that, the sixth four times that.
        """
        free = max(FEW, len(self._workshop.units.all) / 10)
        beyond = max(0.0, len(self._workshop.evaluations) + 1 - free)
        return WORTH * math.exp2(beyond)

    def _promising(self, aim: float, good: Plan) -> Plan | None:
        """Return the plan that is expected to save the largest share of the bytes; None if that is too little.

        What is expected is the chance to be good times the share that the plan saves, beside the best so far. The
        chance is that of a normal distribution of ln(measured / expected).
        """

        def worth(tried: Plan) -> float:
            """Return the share of the bytes that a plan is expected to save."""
            damage = self._rehearsal.damage(tried.precisions)
            chance = (
                0.5 * math.erfc(math.log(damage / aim) / self._spread / math.sqrt(2)) if damage and aim else not damage
            )
            return chance * (1 - tried.cost / good.cost)

        found = max(self._explored, key=worth, default=None)
        return found if found and worth(found) >= self._least() else None

    def _within(self, most: float, good: Plan) -> Plan | None:
        """Return the smallest explored plan with a rehearsed damage up to `most`; None if it saves less than WORTH."""
        found = (each for each in self._explored if self._rehearsal.damage(each.precisions) <= most)
        smallest = min(found, key=lambda each: each.cost, default=good)
        return smallest if smallest.cost < (1 - WORTH) * good.cost else None

    def _learnt(self, found: Evaluation) -> float:
        """Return the rehearsed damage of a model that was made; learn from that and the measured one.

        Factors may be off by as much as the last model was from what had been expected of it.
        """
        rehearsed, measured = self._rehearsal.damage(found.precisions), found.verdict.damage
        if rehearsed > 0 and 0 < measured < math.inf:
            off = abs(math.log(measured / rehearsed / self._factor()))
            self._spread = min(max(off, SPREAD[0]), SPREAD[1])
            self._points.append((rehearsed, measured))
        return rehearsed

    def _aim(self, low: float, high: float) -> float:
        """Return the rehearsed damage of a plan that is expected to do just the allowed damage when it is made."""
        wanted = max(self._allowed, 0.0)
        if self._comparable:
            return wanted / self._factor()
        aim = self._followed(wanted)
        return aim if low * CLOSER < aim < high else math.sqrt(max(low, FLOOR * high) * high)

    def _factor(self) -> float:
        """Return the factor from rehearsed to measured damage: the geometric mean of those known, or 1.

        That of everything small counts only until a plan was made, and only by half, since it says less.
        """
        factors = [measured / rehearsed for rehearsed, measured in self._points]
        factors = factors[self._of_plans :] or [min(max(math.sqrt(f), LIKELY[0]), LIKELY[1]) for f in factors]
        return math.prod(factors) ** (1 / len(factors)) if factors else 1.0

    def _followed(self, wanted: float) -> float:
        """Return the rehearsed damage at which a figure that is not comparable is expected to have the wanted damage.

        A power law through the two nearest models gives it, in which the exponent stays within SLOPES. With one model,
        the exponent is 1:

            rehearsed    measured
            0.001        0.01
            0.002        0.04        exponent 2, so 0.02 measured is expected at 0.0014 rehearsed
        """
        if not wanted or not self._points:
            return 0.0
        near = sorted(self._points, key=lambda point: abs(math.log(point[1] / wanted)))[:2]
        (rehearsed, measured), slope = near[0], 1.0
        if len(near) > 1 and near[0][0] != near[1][0]:
            slope = math.log(near[0][1] / near[1][1]) / math.log(near[0][0] / near[1][0])
        found: float = rehearsed * (wanted / measured) ** (1 / min(max(slope, SLOPES[0]), SLOPES[1]))
        return found

    def _explore(self, plans: Plans, aim: float, good: Plan) -> None:
        """Rehearse plans that may do about the damage `aim`, and note those that were not made yet in `_explored`.

        The damage that `Plans` expects differs from that of the rehearsal. So the next plan is asked for with what is
        expected at the aim, by the ratio of the two in the plan before:

            asked for    plan expects    rehearsed
            1.00         0.98            1.20         the next is asked for with 1.00 * 0.98 / 1.20 = 0.82
            0.82         0.81            0.99         close to the aim of 1.00

        If a plan is there already, the next one is asked for with a little less (CLOSER). This is done twice: from
        knapsacks alone, and from the good plan. Then plans that differ a little from the good plan, and from the last
        that was explored, are noted too.
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
            near = plans.near(each, WORTH * each.cost, LOOKED_AT)
            self._explored += [other for other in near if other not in self._explored and not self._is_made(other)]

    def _is_made(self, tried: Plan) -> bool:
        """Return whether the model of a plan was evaluated."""
        return any(each.precisions == tried.precisions for each in self._workshop.evaluations)


BITS = {"int4": 4, "int8": 8, "qdq": 8, "int8-weights": 9, "float16": 16, "bfloat16": 16}
BITS_OF_OTHERS = 8
"""Bits of a weight by precision, and those that are assumed of others, as of a user's command.

`int8-weights` has a scale for each block of weights on top of 8 bits.
"""
