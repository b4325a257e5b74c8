"""How good a model is, beside the one that it was made from, and what a target asks.

Each metric adds up a few numbers over all sets of inputs, so that its value is of all of them together. Those of all
but one set are known too: the differences between those say how much the value hangs on the data (jackknife).

`damage` is what a search counts with: 0 for equal outputs, and of two changes about the sum of both.

    metric       value                              damage
    sqnr         10 log10(signal / noise) in dB     noise / signal, energies
    cosine       of the angle between outputs       1 - cosine
    max-error    of the largest wanted value        its square
    kl           nats between distributions         the same
    top1         share of rows with equal maximum   noise / signal
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mxtools.errors import UsageError, suggestion
from mxtools.graph.shapes import Array

Sums = tuple[float, ...]
"""What a metric adds up over sets."""
Outputs = Mapping[str, Array]


@dataclass(frozen=True)
class Metric:
    """A metric of outputs beside those that are wanted: `sums` of one array, and the value of sums.

    `rises` says whether larger is better; `allowed` is the damage at a value, None where it does not follow from it.
    """

    name: str
    rises: bool
    unit: str
    sums: Callable[[Array, Array], Sums]
    value: Callable[[Sums], float]
    allowed: Callable[[float], float] | None
    of_rows: bool = False

    def total(self, parts: Sequence[Mapping[str, Sums]]) -> float:
        """Return the value of all sets together, of the output where it is worst."""
        names = parts[0].keys() if parts else ()
        values = [self.value(_added([part[name] for part in parts])) for name in names]
        worst = min if self.rises else max
        return worst(values) if values else math.nan

    def spread(self, parts: Sequence[Mapping[str, Sums]]) -> float:
        """Return the standard error of the value that comes from the choice of the sets; 0 if there is only one."""
        count = len(parts)
        if count < 2:
            return 0.0
        without = [self.total([*parts[:i], *parts[i + 1 :]]) for i in range(count)]
        if not all(map(math.isfinite, without)):
            return 0.0
        return math.sqrt((count - 1) / count * sum((v - sum(without) / count) ** 2 for v in without))

    def parts(self, found: Outputs, wanted: Outputs) -> dict[str, Sums]:
        """Return the sums of each output of one set."""
        return {name: self.sums(found[name], wanted[name]) for name in wanted}


def _added(parts: Sequence[Sums]) -> Sums:
    return tuple(map(sum, zip(*parts, strict=True)))


def _flat(found: Array, wanted: Array) -> tuple[Array, Array]:
    return np.asarray(found, np.float64).ravel(), np.asarray(wanted, np.float64).ravel()


def energies(found: Array, wanted: Array) -> Sums:
    """Return the energies of a difference and of what is wanted, as sums of squares."""
    a, b = _flat(found, wanted)
    return float(np.square(a - b).sum()), float(np.square(b).sum())


def noise_ratio(parts: Sequence[Sums]) -> float:
    """Return the energy of the noise divided by that of the signal, of sums as `energies` returns them."""
    noise, signal = _added(parts)
    return math.inf if not math.isfinite(noise) else noise / signal if signal else math.inf if noise else 0.0


def _sqnr(sums: Sums) -> float:
    ratio = noise_ratio([sums])
    return -math.inf if ratio == math.inf else -10 * math.log10(ratio) if ratio else math.inf


def _angle(found: Array, wanted: Array) -> Sums:
    a, b = _flat(found, wanted)
    return float(a @ b), float(a @ a), float(b @ b)


def _cosine(sums: Sums) -> float:
    inner, a, b = sums
    return inner / math.sqrt(a * b) if a and b and math.isfinite(inner) else 0.0


def _largest(found: Array, wanted: Array) -> Sums:
    a, b = _flat(found, wanted)
    scale = float(np.abs(b).max(initial=0)) or 1.0
    return float(np.abs(a - b).max(initial=0)) / scale, 1.0


def _logits(array: Array) -> Array:
    rows = np.asarray(array, np.float64)
    rows = rows.reshape(-1, rows.shape[-1] if rows.ndim else 1)
    shifted = rows - rows.max(axis=-1, keepdims=True)
    logs: Array = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return logs


def _divergence(found: Array, wanted: Array) -> Sums:
    a, b = _logits(found), _logits(wanted)
    with np.errstate(invalid="ignore"):
        apart = np.where(np.exp(b) > 0, np.exp(b) * (b - a), 0.0).sum(axis=-1)
    return float(apart.sum()), float(len(apart))


def _agreeing(found: Array, wanted: Array) -> Sums:
    a, b = (np.asarray(x).reshape(-1, np.shape(x)[-1]).argmax(axis=-1) for x in (found, wanted))
    return float((a == b).sum()), float(len(a))


def _mean(sums: Sums) -> float:
    total, count = sums
    return math.inf if not math.isfinite(total) else total / count if count else math.nan


class _MaxError(Metric):
    """The largest error of all sets; the others add up."""

    def total(self, parts: Sequence[Mapping[str, Sums]]) -> float:
        """Return the largest error of any output."""
        errors = [sums[0] for part in parts for sums in part.values()]
        return max((math.inf if math.isnan(e) else e for e in errors), default=math.nan)


METRICS: dict[str, Metric] = {
    "sqnr": Metric("sqnr", True, "dB", energies, _sqnr, lambda v: 10 ** (-v / 10)),
    "cosine": Metric("cosine", True, "", _angle, _cosine, lambda v: 1 - v),
    "max-error": _MaxError("max-error", False, "", _largest, _mean, lambda v: v * v),
    "kl": Metric("kl", False, "nats", _divergence, _mean, lambda v: v, of_rows=True),
    "top1": Metric("top1", True, "", _agreeing, _mean, None, of_rows=True),
}
"""The metrics by name; `of_rows`, those that compare the last axis of one output, by default the first."""
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_TARGET = re.compile(rf"\s*([a-z0-9-]*)\s*(>=|<=)\s*(?:({_NUMBER})(\s*\*\s*base)?|base\s*([+-])\s*({_NUMBER}))\s*")


@dataclass(frozen=True)
class Target:
    """What is asked of a metric, or of a user's function where `metric` is empty: `sqnr>=30`, `>=0.99*base`."""

    metric: str
    rises: bool
    factor: float
    offset: float
    text: str

    def at(self, base: float) -> float:
        """Return the value that is asked, where the model as it is has the value `base`."""
        return self.offset + (self.factor * base if self.factor else 0.0)

    def met(self, value: float, base: float, noise: float = 0.0) -> bool:
        """Return whether a value is good enough, also where it is off by some noise."""
        wanted = self.at(base)
        return value - noise >= wanted if self.rises else value + noise <= wanted


def target(text: str, judged: bool) -> Target:
    """Return the target that a text says; `judged` says whether a user's function is the metric.

    >>> target("sqnr>=30", judged=False).at(base=0)
    30.0
    >>> target(">=0.99*base", judged=True).at(base=0.5)
    0.495
    >>> target(">=base-0.01", judged=True).met(0.895, base=0.9)
    True

    Raises UsageError for anything else.
    """
    found = _TARGET.fullmatch(text)
    example = "write '>=0.99*base'" if judged else "write 'sqnr>=30'"
    if not found:
        raise UsageError(f"the target {text!r} is no comparison", example)
    name, sign, number, times, plus, off = found.groups()
    if judged and name:
        raise UsageError(f"the target {text!r} names a metric, and the function is one", "write '>=0.99*base'")
    if not judged and name not in METRICS:
        raise UsageError(f"there is no metric {name!r}", suggestion(name, METRICS) + ", as in 'sqnr>=30'")
    if not judged and (times or off):
        raise UsageError("base is what the model as it is has of a user's function", example)
    rises = sign == ">="
    if not judged and rises != METRICS[name].rises:
        raise UsageError(f"of {name} {'larger' if METRICS[name].rises else 'smaller'} is better", example)
    factor = float(number) if times else float(bool(off))
    offset = (float(off) if plus == "+" else -float(off)) if off else 0.0 if times else float(number)
    return Target(name, rises, factor, offset, text.strip())
