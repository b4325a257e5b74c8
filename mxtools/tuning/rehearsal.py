"""Rehearsals: what quantised units would do to the outputs, found without quantising the model.

The model as it is gets an input behind each unit, which is added to the unit's result. For a rehearsal it runs with the
own errors of some units there (`own_errors`), and with 0 for all others. Nothing is quantised, so that is quick.

First the single units are measured, in the precision in which each has its largest own error. A module with many units
is run with the errors of all of them at once. It is opened, that is, its parts are run one by one, only if it does a
good part of the damage that all units do together. Of 1.00 that all do:

    encoder              0.97         3 % or more, so it is opened
      layer.0            0.95         opened too
        query            0.90         a single unit, whose damage is now known, as of the next two
        key              0.04
        value            0.01
      layer.1            0.02         not opened: its units share 0.02 in proportion to their own errors
    head                 0.01         a single unit

The damage of a unit in another precision is in proportion to its own error there.

Then whole plans are rehearsed, before a model is made of one: the errors of all units of the plan are added at once.
What they do is not just the sum of what each does alone. Two products that read the same rounded input are wrong in
the same direction, and two roundings in a row may cancel out:

    units                 alone          both at once
    query and key         0.4, 0.5       1.3
    up and down           0.4, 0.5       0.7
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from mxtools.graph.shapes import Array
from mxtools.runtime.sessions import REFERENCE
from mxtools.scopes.hierarchy import ROOT_CALL
from mxtools.tuning.judging import damage_of
from mxtools.tuning.metrics import Metric, Outputs
from mxtools.tuning.own_errors import Arrays, Measured, OwnErrors, shares
from mxtools.tuning.probe_graphs import ADDED, result_of, with_errors_added, with_outputs
from mxtools.tuning.units import Assignment, Unit, key_of
from mxtools.tuning.workshop import Workshop

OPENED = 0.03
"""A module is opened if it does at least this share of the damage of all units together, or of the allowed damage.

The smaller of these two damages counts.
"""
TOGETHER = 2
"""A module with at most so many units is opened without a run of the whole, which would spare hardly anything."""
ELEMENTS = 1 << 15
"""How many elements of the outputs are kept, at most, to find the angles between errors."""


class Rehearsal:
    """Runs the model as it is with the own errors of units added.

    `known` is what was measured of the units, None before `measured` is called. It may also be set to what an earlier
    search measured, which then is not measured again. Graphs and errors are made only when a run needs them.
    """

    def __init__(self, workshop: Workshop, metric: Metric | None, names: Sequence[str], allowed: float | None) -> None:
        """Take a workshop, the metric (None for a user's function), and the names of the outputs that are compared.

        `allowed` is the damage that the target allows, None if it is not a damage of outputs.
        """
        self._workshop, self._metric, self._names, self._allowed = workshop, metric, names, allowed or math.inf
        self.known: Measured | None = None
        self._fresh = Measured()

    @cached_property
    def _own(self) -> OwnErrors:
        """The own errors of the units, which are measured when they are first needed."""
        return OwnErrors(self._workshop, self._names, self._fresh)

    @cached_property
    def _added(self) -> _Added:
        """The model to which errors are added, which is loaded when it is first needed."""
        return _Added(self._own, self._metric, self._names)

    def measured(self) -> Measured:
        """Return what is known of the units, and measure them first if nothing is.

        Raises InputError if a run or a quantiser fails.
        """
        if self.known is None:
            units, measured = self._own.units.all, self._fresh
            worst = {unit.name: measured.noisiest(unit.name) for unit in units}
            damages = self._damages({unit: p for unit, p in worst.items() if p})
            for unit in units:
                errors, most = measured.errors[unit.name], measured.errors[unit.name].get(worst[unit.name], 0.0)
                measured.damages[unit.name] = {
                    precision: damages[unit.name] * error / most if most and math.isfinite(error) else error
                    for precision, error in errors.items()
                }
            self.known = measured
        return self.known

    def damage(self, precisions: Assignment) -> float:
        """Return the damage of a plan: that of the own errors of its units in their precisions, all added at once.

        Units that have none there add nothing. What was rehearsed once is not run again.
        """
        known, key = self.measured(), key_of(precisions)
        if key not in known.rehearsed:
            known.rehearsed[key] = self._run(precisions, None)
        return known.rehearsed[key]

    def _run(self, precisions: Assignment, count: int | None) -> float:
        """Return the damage of a plan on the first `count` pieces, None for all; add the number of runs to `probes`."""
        (self.known or self._fresh).probes += len(self._own.feeds[:count])
        return self._added.damage(self._workshop.units.all, precisions, count)

    def _damages(self, precisions: Assignment) -> dict[str, float]:
        """Return the damage of each unit in the precision given; note the angles between their errors in `alike`."""
        found: dict[str, float] = {}
        alone: dict[str, Array] = {}
        tree = self._workshop.units

        def probed(units: Sequence[Unit]) -> float:
            """Return the damage of some units at once; keep the error of a single unit for the angles."""
            damage = self._run({u.name: precisions[u.name] for u in units if u.name in precisions}, self._own.few)
            if len(units) == 1:
                alone[units[0].name] = self._added.last
            return damage

        def opened(call: int) -> None:
            """Measure the parts of a call: units, modules as a whole, and the parts of modules that do much damage."""
            for child, units in tree.children(call):
                if child is None or len(units) == 1:
                    found[units[0].name] = probed(units)
                elif (
                    len(units) <= TOGETHER
                    or len(units) == len(tree.inside[call])
                    or not (damage := probed(units)) < OPENED * whole
                ):
                    opened(child)
                else:
                    errors = {u.name: self._fresh.errors[u.name].get(precisions.get(u.name, ""), 0.0) for u in units}
                    found.update(shares(errors, damage))

        whole = min(probed(tree.all), self._allowed)
        opened(ROOT_CALL)
        self._fresh.alike = alike([alone.get(unit.name) for unit in tree.all])
        return found


def alike(errors: Sequence[Array | None]) -> list[list[float]]:
    """Return the cosines of the angles between errors, a square matrix with 1 on its diagonal.

    Errors are vectors of one length. One that is not known (None), or is zero, is at a right angle to all others.
    """
    size = max((len(error) for error in errors if error is not None), default=0)
    rows = np.array([np.zeros(size) if error is None else error for error in errors])
    lengths = np.sqrt(np.square(rows).sum(axis=1, keepdims=True))
    rows = np.divide(rows, lengths, out=np.zeros_like(rows), where=np.isfinite(lengths) & (lengths > 0))
    found = rows @ rows.T
    np.fill_diagonal(found, 1.0)
    return [[round(float(value), 4) for value in row] for row in found]


def _difference(found: Sequence[Outputs], wanted: Sequence[Outputs]) -> Array:
    """Return the errors of all outputs on all pieces as one vector, thinned out evenly to at most ELEMENTS elements.

    The errors of each output are divided by the root mean square of what is wanted there. Numbers that are not finite
    are replaced: NaN by 0, infinities by the largest float.
    """
    parts = []
    for name in wanted[0]:
        right = np.concatenate([np.asarray(each[name], np.float64).ravel() for each in wanted[: len(found)]])
        wrong = np.concatenate([np.asarray(each[name], np.float64).ravel() for each in found])
        parts.append((wrong - right) / (np.sqrt(np.square(right).mean()) or 1.0))
    whole = np.concatenate(parts)
    some: Array = np.nan_to_num(whole[:: 1 + len(whole) // ELEMENTS])
    return some


class _Added:
    """The model with an input behind each unit; `last` has the errors of the outputs in the last run."""

    def __init__(self, own: OwnErrors, metric: Metric | None, names: Sequence[str]) -> None:
        self._own, self._metric, self._names = own, metric, names
        self.last: Array = np.zeros(0)
        altered = with_errors_added(own.model.proto, own.graph, own.nodes)
        self._run = REFERENCE.load(with_outputs(altered, names), own.model.weights)
        self._nothing = {ADDED + result_of(own.graph, node): np.zeros((), np.float32) for node in own.nodes}

    def damage(self, units: Sequence[Unit], precisions: Assignment, count: int | None) -> float:
        """Return the damage of own errors of units in some precisions, on the first `count` pieces, None for all."""
        found = [self._outputs(at, units, precisions) for at in range(len(self._own.feeds[:count]))]
        self.last = _difference(found, self._own.wanted)
        return damage_of(self._metric, found, self._own.wanted[:count])

    def _outputs(self, at: int, units: Sequence[Unit], precisions: Mapping[str, str]) -> Outputs:
        """Return the outputs of a run on the piece `at`, with the errors of units in their precisions added."""
        added: Arrays = {}
        for unit in units:
            noise = self._own.noises[precisions[unit.name]][at] if unit.name in precisions else {}
            added |= {ADDED + name: noise[name] for name in self._own.results(unit) if name in noise}
        feeds = {**self._own.feeds[at], **self._nothing, **added}
        return dict(zip(self._names, self._run(self._names, feeds), strict=True))
