"""What small units do to the result, without making them small.

The model as it is gets an input behind each unit, which is added to its result. It is run with the own errors of some
units there (`own_errors`), and nothing of the others. Nothing is quantised for that, so it is quick. First it says what
each unit does. Small errors add up, so a module with many units is run whole, and opened only where what it does is a
good part of what all do together. What a unit does in another precision follows from its own error there.

Then it says what a plan does, before a model is made of it: the errors of its units are added all at once. They do not
just add up. Two products that read the same rounded input are wrong in the same direction, and two roundings in a row
may cancel out:

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
"""The share of the damage of all units together, or of what is allowed, from which on a module is opened."""
TOGETHER = 2
"""A module with so many units is opened at once: running it whole would spare nothing."""

ELEMENTS = 1 << 15
"""Elements of outputs that tell whether errors point in the same direction."""


class Rehearsal:
    """Runs of the model as it is with errors of units added; `known` is what was measured, None before `measured`.

    What is known from an earlier search is not measured again, and what it needs is made only for what is not known.
    """

    def __init__(self, workshop: Workshop, metric: Metric | None, names: Sequence[str], allowed: float | None) -> None:
        """Take a workshop, the outputs that count, and the damage that is allowed there if it is known."""
        self._workshop, self._metric, self._names, self._allowed = workshop, metric, names, allowed or math.inf
        self.known: Measured | None = None
        self._fresh = Measured()

    @cached_property
    def _own(self) -> OwnErrors:
        return OwnErrors(self._workshop, self._names, self._fresh)

    @cached_property
    def _added(self) -> _Added:
        return _Added(self._own, self._metric, self._names)

    def measured(self) -> Measured:
        """Return what is known of each unit."""
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
        """Return the damage of the own errors of all units that are small, added at once."""
        known, key = self.measured(), key_of(precisions)
        if key not in known.rehearsed:
            known.rehearsed[key] = self._run(precisions, None)
        return known.rehearsed[key]

    def _run(self, precisions: Assignment, count: int | None) -> float:
        """Run the model on some of the pieces, by default on all."""
        (self.known or self._fresh).probes += len(self._own.feeds[:count])
        return self._added.damage(self._workshop.units.all, precisions, count)

    def _damages(self, precisions: Assignment) -> dict[str, float]:
        """Return the damage that each unit does in its noisiest precision, and note which do the same."""
        found: dict[str, float] = {}
        alone: dict[str, Array] = {}
        tree = self._workshop.units

        def probed(units: Sequence[Unit]) -> float:
            damage = self._run({u.name: precisions[u.name] for u in units if u.name in precisions}, self._own.few)
            if len(units) == 1:
                alone[units[0].name] = self._added.last
            return damage

        def opened(call: int) -> None:
            """Probe what is in a call, and open those of its modules that hurt."""
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
    """Return how far errors point in the same direction, from -1 to 1; of one that is not known, not at all."""
    size = max((len(error) for error in errors if error is not None), default=0)
    rows = np.array([np.zeros(size) if error is None else error for error in errors])
    lengths = np.sqrt(np.square(rows).sum(axis=1, keepdims=True))
    rows = np.divide(rows, lengths, out=np.zeros_like(rows), where=np.isfinite(lengths) & (lengths > 0))
    found = rows @ rows.T
    np.fill_diagonal(found, 1.0)
    return [[round(float(value), 4) for value in row] for row in found]


def _difference(found: Sequence[Outputs], wanted: Sequence[Outputs]) -> Array:
    """Return the errors of outputs, each in units of what is wanted there, in one row; of many elements some."""
    parts = []
    for name in wanted[0]:
        right = np.concatenate([np.asarray(each[name], np.float64).ravel() for each in wanted[: len(found)]])
        wrong = np.concatenate([np.asarray(each[name], np.float64).ravel() for each in found])
        parts.append((wrong - right) / (np.sqrt(np.square(right).mean()) or 1.0))
    whole = np.concatenate(parts)
    some: Array = np.nan_to_num(whole[:: 1 + len(whole) // ELEMENTS])
    return some


class _Added:
    """The model with an input behind each unit."""

    def __init__(self, own: OwnErrors, metric: Metric | None, names: Sequence[str]) -> None:
        self._own, self._metric, self._names = own, metric, names
        self.last: Array = np.zeros(0)
        altered = with_errors_added(own.model.proto, own.graph, own.nodes)
        self._run = REFERENCE.load(with_outputs(altered, names), own.model.weights)
        self._nothing = {ADDED + result_of(own.graph, node): np.zeros((), np.float32) for node in own.nodes}

    def damage(self, units: Sequence[Unit], precisions: Assignment, count: int | None) -> float:
        """Return the damage of the errors of units in some precisions, on some pieces of the inputs."""
        found = [self._outputs(at, units, precisions) for at in range(len(self._own.feeds[:count]))]
        self.last = _difference(found, self._own.wanted)
        return damage_of(self._metric, found, self._own.wanted[:count])

    def _outputs(self, at: int, units: Sequence[Unit], precisions: Mapping[str, str]) -> Outputs:
        """Return the outputs for one piece."""
        added: Arrays = {}
        for unit in units:
            noise = self._own.noises[precisions[unit.name]][at] if unit.name in precisions else {}
            added |= {ADDED + name: noise[name] for name in self._own.results(unit) if name in noise}
        feeds = {**self._own.feeds[at], **self._nothing, **added}
        return dict(zip(self._names, self._run(self._names, feeds), strict=True))
