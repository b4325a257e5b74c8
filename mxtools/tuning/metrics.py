"""Metrics: how close the outputs of a model are to those of the model that it was made from; and targets.

A metric takes a few sums over each set of inputs (for SQNR, the energies of noise and signal). Added up over all sets,
they give the value of all sets together. Added up over all sets but one, they give the value without that set. How much
these values differ shows how much the value depends on the choice of the sets: this is the jackknife.

    set     noise    signal
    1       0.10     10          all three together: 0.60 / 30, which is 17.0 dB
    2       0.10     10          without 1: 0.50 / 20, which is 16.0 dB; without 2 the same
    3       0.40     10          without 3: 0.20 / 20, which is 20.0 dB; so the error is 2.7 dB (`Metric.spread`)

The search calculates with the damage. It is 0 for equal outputs, and two changes together do about the sum of their
damages. Decibels do not add up, so each metric says which damage a value stands for. Noise is the difference of the
outputs, signal what the model as it is returns, and the energy of either is the sum of its squares.

    metric       value                                                       damage
    sqnr         10 log10(signal / noise), of energies, in dB                noise / signal
    cosine       cosine of the angle between the outputs as long vectors     1 - value
    max-error    largest difference divided by the largest wanted value      value²
    kl           Kullback-Leibler divergence of a row's softmax, in nats     value
    top1         share of the rows that have their maximum in one place      1 - value; in rehearsals noise / signal
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
"""The numbers of one output that a metric adds up over sets; which numbers depends on the metric."""
Outputs = Mapping[str, Array]
"""The arrays that a model returns, by the names of its outputs."""


@dataclass(frozen=True)
class Metric:
    """A measure of how close the outputs that were found are to those that are wanted.

    Attributes: `name`, as targets have it; `rises`, whether larger is better; `unit` of the value, such as "dB", empty
    if it has none; `sums`, a function of a found and a wanted array of one shape; `value`, a function from sums to the
    value; `allowed`, a function from a value to its damage, None if the damage does not follow from the value;
    `of_rows`, whether it compares rows along the last axis.
    """

    name: str
    rises: bool
    unit: str
    sums: Callable[[Array, Array], Sums]
    value: Callable[[Sums], float]
    allowed: Callable[[float], float] | None
    of_rows: bool = False

    def total(self, parts: Sequence[Mapping[str, Sums]]) -> float:
        """Return the value of all sets together, of the output where it is worst; NaN if there is no set.

        `parts` has, for each set, the sums by output.
        """
        names = parts[0].keys() if parts else ()
        values = [self.value(_added([part[name] for part in parts])) for name in names]
        worst = min if self.rises else max
        return worst(values) if values else math.nan

    def spread(self, parts: Sequence[Mapping[str, Sums]]) -> float:
        """Return the standard error of the value that comes from the choice of the sets, in the unit of the value.

        This is the jackknife estimate: sqrt((n - 1) / n * sum((v_i - mean)²)), where v_i is the value without set i
        (B. Efron, The Jackknife, the Bootstrap and Other Resampling Plans, 1982). Returns 0 if there is only one set,
        or if one of these values is not finite.
        """
        count = len(parts)
        if count < 2:
            return 0.0
        without = [self.total([*parts[:i], *parts[i + 1 :]]) for i in range(count)]
        if not all(map(math.isfinite, without)):
            return 0.0
        return math.sqrt((count - 1) / count * sum((v - sum(without) / count) ** 2 for v in without))

    def parts(self, found: Outputs, wanted: Outputs) -> dict[str, Sums]:
        """Return the sums of one set, by output."""
        return {name: self.sums(found[name], wanted[name]) for name in wanted}


def _added(parts: Sequence[Sums]) -> Sums:
    return tuple(map(sum, zip(*parts, strict=True)))


def _flat(found: Array, wanted: Array) -> tuple[Array, Array]:
    """Return two arrays as vectors of float64."""
    return np.asarray(found, np.float64).ravel(), np.asarray(wanted, np.float64).ravel()


def energies(found: Array, wanted: Array) -> Sums:
    """Return the energies of the noise, found - wanted, and of the signal, wanted: sums of squares in float64."""
    a, b = _flat(found, wanted)
    return float(np.square(a - b).sum()), float(np.square(b).sum())


def noise_ratio(parts: Sequence[Sums]) -> float:
    """Return the energy of the noise divided by that of the signal, added up over what `energies` returned.

    Returns infinity if the noise is not finite, or if there is noise and no signal.
    """
    noise, signal = _added(parts)
    return math.inf if not math.isfinite(noise) else noise / signal if signal else math.inf if noise else 0.0


def _sqnr(sums: Sums) -> float:
    """Return the signal-to-quantisation-noise ratio of energies, in decibels."""
    ratio = noise_ratio([sums])
    return -math.inf if ratio == math.inf else -10 * math.log10(ratio) if ratio else math.inf


def _angle(found: Array, wanted: Array) -> Sums:
    """Return what a cosine is made of: the inner product of two arrays, and the energy of each."""
    a, b = _flat(found, wanted)
    return float(a @ b), float(a @ a), float(b @ b)


def _cosine(sums: Sums) -> float:
    inner, a, b = sums
    return inner / math.sqrt(a * b) if a and b and math.isfinite(inner) else 0.0


def _largest(found: Array, wanted: Array) -> Sums:
    """Return the largest difference divided by the largest absolute value that is wanted, and 1 for the count."""
    a, b = _flat(found, wanted)
    scale = float(np.abs(b).max(initial=0)) or 1.0
    return float(np.abs(a - b).max(initial=0)) / scale, 1.0


def _rows(array: Array) -> Array:
    """Return an array as a matrix with one row for each vector along the last axis; a scalar is one row of one."""
    return array.reshape(-1, array.shape[-1] if array.ndim else 1)


def _logits(array: Array) -> Array:
    """Return the logarithm of the softmax along the last axis, as a matrix with one row for each distribution."""
    rows = _rows(np.asarray(array, np.float64))
    shifted = rows - rows.max(axis=-1, keepdims=True)
    logs: Array = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return logs


def _divergence(found: Array, wanted: Array) -> Sums:
    """Return the Kullback-Leibler divergences of the found distributions from the wanted ones, added up; and the rows.

    That is the sum of p log(p / q) in nats, where p is the softmax of a wanted row, and q of the one found.
    """
    a, b = _logits(found), _logits(wanted)
    with np.errstate(invalid="ignore"):
        apart = np.where(np.exp(b) > 0, np.exp(b) * (b - a), 0.0).sum(axis=-1)
    return float(apart.sum()), float(len(apart))


def _agreeing(found: Array, wanted: Array) -> Sums:
    """Return how many rows have their maximum where the wanted row has it, and the number of rows."""
    a, b = (_rows(x).argmax(axis=-1) for x in (found, wanted))
    return float((a == b).sum()), float(len(a))


def _mean(sums: Sums) -> float:
    """Return a total divided by its count; infinity if the total is not finite, NaN if the count is 0."""
    total, count = sums
    return math.inf if not math.isfinite(total) else total / count if count else math.nan


class _MaxError(Metric):
    """The metric `max-error`: it takes the largest error of all sets, where the other metrics add up."""

    def total(self, parts: Sequence[Mapping[str, Sums]]) -> float:
        """Return the largest error of any output in any set."""
        errors = [sums[0] for part in parts for sums in part.values()]
        return max((math.inf if math.isnan(e) else e for e in errors), default=math.nan)


METRICS: dict[str, Metric] = {
    "sqnr": Metric("sqnr", True, "dB", energies, _sqnr, lambda v: 10 ** (-v / 10)),
    "cosine": Metric("cosine", True, "", _angle, _cosine, lambda v: 1 - v),
    "max-error": _MaxError("max-error", False, "", _largest, _mean, lambda v: v * v),
    "kl": Metric("kl", False, "nats", _divergence, _mean, lambda v: v, of_rows=True),
    "top1": Metric("top1", True, "", _agreeing, _mean, None, of_rows=True),
}
"""The metrics by name. Those `of_rows` compare the first output of floats, unless a user names others."""
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_TARGET = re.compile(rf"\s*([a-z0-9-]*)\s*(>=|<=)\s*(?:({_NUMBER})(\s*\*\s*base)?|base(?:\s*([+-])\s*({_NUMBER}))?)\s*")


@dataclass(frozen=True)
class Target:
    """What a model must reach, such as `sqnr>=30` or `>=0.99*base`; `base` is the value of the model as it is.

    Attributes: `metric`, its name, empty for a user's function; `rises`, whether the value must be at least, not at
    most, what is asked; `factor` and `offset`, by which what is asked is factor * base + offset; `text`, as it was
    written.
    """

    metric: str
    rises: bool
    factor: float
    offset: float
    text: str

    def at(self, base: float) -> float:
        """Return the value that is asked for, if the model as it is has the value `base` (which may be infinite)."""
        return self.offset + (self.factor * base if self.factor else 0.0)

    def met(self, value: float, base: float, noise: float = 0.0) -> bool:
        """Return whether a value is good enough, even if it is worse by `noise` than it looks."""
        wanted = self.at(base)
        return value - noise >= wanted if self.rises else value + noise <= wanted


def target(text: str, judged: bool) -> Target:
    """Return the target that is written in a text; `judged` says whether a user's function gives the value.

    >>> target("sqnr>=30", judged=False).at(base=0)
    30.0
    >>> target(">=0.99*base", judged=True).at(base=0.5)
    0.495
    >>> target(">=base-0.01", judged=True).met(0.895, base=0.9)
    True
    >>> target(">=base", judged=True).met(0.895, base=0.9)
    False

    Raises UsageError if the text is no comparison, names an unknown metric, or has the wrong sign for it (`sqnr<=30`);
    if it names a metric and `judged` is true; if it has `base` and `judged` is false.
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
    if not judged and (times or not number):
        raise UsageError("base is what the model as it is has of a user's function", example)
    rises = sign == ">="
    if not judged and rises != METRICS[name].rises:
        raise UsageError(f"of {name} {'larger' if METRICS[name].rises else 'smaller'} is better", example)
    if number:
        factor, offset = (float(number), 0.0) if times else (0.0, float(number))
    else:
        factor, offset = 1.0, float(off or 0) * (-1 if plus == "-" else 1)
    return Target(name, rises, factor, offset, text.strip())
