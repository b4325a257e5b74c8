"""Split a model by a budget: so many parts, or none above a limit, as even as can be, and with little between them.

Balance is not everything: the most even cut of a Transformer runs through the middle of an attention, where four
tensors cross in the place of one. So parts may be a little larger than the best balance has them, and within that the
cuts are where least crosses.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from mxtools.costs.costs import Costs
from mxtools.errors import CheckError, UsageError, suggestion
from mxtools.graph.index import Graph
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes.hierarchy import ROOT_CALL
from mxtools.split.division.loads import Loads, Measure, crossing
from mxtools.split.division.partition import Limits, Row
from mxtools.split.division.units import Unit, other_orders, units

SLACK = 0.05
"""How far above the mean the largest part may be, if less crosses then: half of what is called even."""


@dataclass(frozen=True)
class Budget:
    """How a model is to be divided.

    Attributes: `parts`, how many, None for as few as the limits allow; `limits`, the most that a part may amount to;
    `balance`, what the largest part is to have as little of as can be; `times`, microseconds by scope, for `TIME`.
    """

    parts: int | None = None
    limits: Mapping[Measure, int] = field(default_factory=dict)
    balance: Measure | None = None
    times: Mapping[str, float] = field(default_factory=dict)

    @property
    def measure(self) -> Measure:
        """What parts are compared by: what they are balanced by, else what they are limited by."""
        return self.balance or next(iter(self.limits), Measure.BYTES)


@dataclass(frozen=True)
class Division:
    """The nodes of each part in order.

    Attributes: `groups`, the nodes; `amounts`, what each part amounts to by the `measure`; `bound`, what the largest of
    as many parts amounts to at least.
    """

    groups: list[list[int]]
    measure: Measure
    amounts: list[int]
    bound: int


def divide(model: WorkingModel, budget: Budget, whole: Collection[int], costs: Costs) -> Division:
    """Divide a model within a budget; the calls `whole` are not divided.

    Raises UsageError if there are fewer modules to cut between than parts, or if something that is to be counted is not
    known; CheckError, with the least limits that can be kept, if these cannot.
    """
    row = units(model.annotations, whole)
    if not row:
        raise UsageError("nothing in the model depends on its inputs", "there is nothing to split")
    if budget.parts is not None and budget.parts > len(row):
        raise UsageError(f"{budget.parts} parts cannot be made of {len(row)} modules", f"ask for {len(row)} at most")
    wanted = {budget.measure, *budget.limits} - {Measure.BYTES}
    amounts = {measure: _amounts(model, row, budget, costs, measure) for measure in wanted}
    sizes = {v: costs.size(v) or 0 for unit in row for node in unit for v in model.graph.writes[node]}
    found = _Units(model.graph, row, amounts, sizes)
    order: Sequence[int] = range(len(row))
    line = found.line(order)
    _require_all_fit(model, row, line, budget)
    measure = budget.measure
    parts = budget.parts or line.fill(Limits(measure, None, budget.limits)).parts
    best = line.least(parts, measure, budget.limits)
    if best is None:
        raise _too_many(line, parts, budget)
    bound = max(line.largest(measure)[0], -(-line.total(measure) // parts))
    if budget.parts and best > bound * (1 + SLACK):
        order, line, best = found.better(order, line, best, budget)
    even = None
    if budget.parts or budget.balance:
        even = max(best, int(_mean(line, len(row), parts, best, measure) * (1 + SLACK)))
    ranges = line.divide(parts, Limits(measure, even, budget.limits))
    groups = [[node for number in part for node in row[order[number]]] for part in ranges]
    return Division(groups, measure, [line.amount(part, measure) for part in ranges], bound)


@dataclass(frozen=True)
class _Units:
    """The units of a graph, with what each amounts to by measures other than bytes, and the sizes of values."""

    graph: Graph
    row: Sequence[Unit]
    amounts: Mapping[Measure, Sequence[int]]
    sizes: Mapping[int, int]

    def line(self, order: Sequence[int]) -> Row[Measure]:
        """Return the units in an order, which is given by their places in the row."""
        arranged = [self.row[number] for number in order]
        own = {measure: [of[number] for number in order] for measure, of in self.amounts.items()}
        return Row(Loads(self.graph, arranged, own), crossing(self.graph, arranged, self.sizes))

    def better(
        self, order: Sequence[int], line: Row[Measure], best: int, budget: Budget
    ) -> tuple[Sequence[int], Row[Measure], int]:
        """Return the order with the smallest largest part, the units in it, and what that part amounts to.

        Branches can be run in any order. If the embeddings of an encoder and a decoder come first, for instance, the
        weights that they share are in one part. `order` stays if another is hardly better.
        """
        alone = [line.amount(range(number, number + 1), budget.measure) for number in range(line.count)]
        for other in other_orders(self.graph, self.row, alone):
            tried = self.line(other)
            least = tried.least(budget.parts or 1, budget.measure, budget.limits)
            if least is not None and least < best * (1 - SLACK):
                order, line, best = other, tried, least
        return order, line, best


def _require_all_fit(model: WorkingModel, row: Sequence[Unit], line: Row[Measure], budget: Budget) -> None:
    """Raise CheckError if a unit is above a limit alone."""
    for limited, limit in budget.limits.items():
        alone, unit = line.largest(limited)
        if alone > limit:
            raise CheckError(
                f"{_name(model, row[unit])} has {alone} {UNITS[limited]}, more than the limit of {limit}",
                f"the smallest possible limit is {alone}",
            )


def _mean(line: Row[Measure], count: int, parts: int, best: int, measure: Measure) -> float:
    """Return what a part amounts to in the mean, without units that are so large that they are parts alone."""
    alone = [line.amount(range(unit, unit + 1), measure) for unit in range(count)]
    large = [amount for amount in alone if amount > best]
    return max(line.total(measure) - sum(large), 0) / max(parts - len(large), 1)


def _name(model: WorkingModel, unit: Unit) -> str:
    """Return the scope of a unit: that of the innermost call that has all of its nodes."""
    annotations = model.annotations
    return annotations.hierarchy.scopes[annotations.hierarchy.common(annotations.call[n] or ROOT_CALL for n in unit)]


def budget_of(
    parts: int | None, limits: Mapping[str, int | None], balance: str | None, times: Mapping[str, float] | None
) -> Budget | None:
    """Return the budget that a user gives, None without any; UsageError where what is given does not fit together."""
    given = {Measure(name): limit for name, limit in limits.items() if limit is not None}
    if balance is not None and balance not in list(Measure):
        raise UsageError(f"{balance!r} is nothing to balance by", suggestion(balance, Measure))
    if (balance == Measure.TIME) != (times is not None):
        raise UsageError("times come from a profile", "give ⟨balance⟩ time with ⟨profile⟩, or neither")
    if parts is not None and parts < 1:
        raise UsageError(f"{parts} parts are none", "ask for one or more")
    if parts is None and not given:
        if balance:
            raise UsageError("there is nothing to balance", "give ⟨parts⟩ or a limit")
        return None
    by = Measure(balance) if balance else Measure.BYTES if parts else None
    return Budget(parts, given, by, times or {})


def amount_of(text: str) -> int:
    """Return a number as people write it: `200MB`, `1.5 G`, `64KiB`, `4096`; UsageError if it is none."""
    found = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?(?:([kKMGT])(i?))?B?", text.strip())
    amount = (
        int(float(found[1]) * (1024 if found[3] else 1000) ** " KMGT".index((found[2] or " ").upper())) if found else 0
    )
    if amount < 1:
        raise UsageError(f"{text!r} is no amount", "write 200MB, 64KiB, 1.5G or 4096")
    return amount


_NANOSECONDS = 1000
"""In a microsecond."""
_LONGEST = 1e15
"""Microseconds that no run takes, as a file may say."""
UNITS = {
    Measure.BYTES: "bytes",
    Measure.MULTIPLY_ADDS: "multiply-adds",
    Measure.TIME: "nanoseconds",
    Measure.ACTIVATIONS: "bytes of activations",
}
"""What amounts are counted in."""


def _too_many(line: Row[Measure], parts: int, budget: Budget) -> CheckError:
    """Return the error for limits that need more parts: with fewer, one of these is the smallest possible."""
    texts = []
    for measure in budget.limits:
        others = {other: limit for other, limit in budget.limits.items() if other != measure}
        least = line.least(parts, measure, others)
        if least is not None:
            texts.append(f"{max(least, line.largest(measure)[0])} {UNITS[measure]}")
    needed = line.fill(Limits(budget.measure, None, budget.limits)).parts
    smallest = f"; the smallest possible limit for {parts} is {' or '.join(texts)}" if texts else ""
    return CheckError(f"{parts} parts cannot be within the limits", f"make {needed} parts{smallest}")


def _amounts(model: WorkingModel, row: list[Unit], budget: Budget, costs: Costs, measure: Measure) -> list[int]:
    """Return the amount of each unit by a measure other than bytes of weights."""
    graph = model.graph
    if measure is Measure.TIME:
        return _times(model, row, budget.times)
    unknown = 0
    found = []
    for unit in row:
        if measure is Measure.MULTIPLY_ADDS:
            counts = [costs.multiply_adds.get(n) for n in unit if graph.operators[n].is_product]
        else:
            counts = [costs.size(value) for node in unit for value in graph.writes[node]]
        unknown += counts.count(None)
        found.append(sum(count or 0 for count in counts))
    if unknown:
        what = "products" if measure is Measure.MULTIPLY_ADDS else "values"
        raise UsageError(f"the shapes of {unknown} {what} are not known", "balance by bytes")
    return found


def _times(model: WorkingModel, row: list[Unit], times: Mapping[str, float]) -> list[int]:
    """Return nanoseconds of units: the own time of a call is shared evenly by its nodes."""
    annotations = model.annotations
    calls = [[annotations.call[node] or ROOT_CALL for node in unit] for unit in row]
    counts: dict[int, int] = {}
    for call in (call for unit in calls for call in unit):
        counts[call] = counts.get(call, 0) + 1
    scopes = annotations.hierarchy.scopes
    own = {call: times.get(scopes[call], 0.0) for call in counts}
    each = {c: _NANOSECONDS * own[c] / count if 0 < own[c] < _LONGEST else 0.0 for c, count in counts.items()}
    if not any(each.values()):
        raise UsageError("the profile has no time of the modules of this model", "profile this model")
    return [round(sum(each[call] for call in unit)) for unit in calls]
