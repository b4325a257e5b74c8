"""Rehearsals: what small units do to the outputs, found without making a model for each plan.

Quantisers make all units small once, side by side (`own_errors`). The model as it is then gets a switch at each unit,
between the unit as it is and as a quantiser made it (`probe_graphs`). A rehearsal is a run with some switches on. Its
outputs are those of the model that a quantiser would make for these units; it only takes no quantiser, no file and no
session of its own.

First the single units are measured, in the precision in which each has its largest own error. A module with many units
is run with all of them small at once. It is opened, that is, its parts are run one by one, only if it does a good part
of the damage that all units do together. Of 1.00 that all do:

    encoder              0.97         3 % or more, so it is opened
      layer.0            0.95         opened too
        query            0.90         a single unit, whose damage is now known, as of the next two
        key              0.04
        value            0.01
      layer.1            0.02         not opened: its units share 0.02 in proportion to their own errors
    head                 0.01         a single unit

The damage of a unit in another precision is in proportion to its own error there.

Then whole plans are rehearsed, before a model is made of one. What the units of a plan do together is not just the sum
of what each does alone. Two products that read the same rounded input are wrong in the same direction, and two
roundings in a row may cancel out:

    units                 alone          both at once
    query and key         0.4, 0.5       1.3
    up and down           0.4, 0.5       0.7
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from mxtools.files.temporary import Scratch
from mxtools.graph.shapes import Array
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes.hierarchy import ROOT_CALL
from mxtools.tuning.judging import damage_of, opened, run
from mxtools.tuning.metrics import Metric, Outputs
from mxtools.tuning.own_errors import Measured, own_errors, shares
from mxtools.tuning.probe_graphs import SWITCH, switch, with_switches
from mxtools.tuning.samples import Set
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
SETS = 32
"""Sets of inputs, at most, that a plan is rehearsed on."""


class Rehearsal:
    """Runs the model as it is with some units small.

    `known` is what was measured of the units, None before `measured` is called. It may also be set to what an earlier
    search measured, which then is not measured again. What runs need is made when one needs it.
    """

    def __init__(self, workshop: Workshop, metric: Metric | None, names: Sequence[str], allowed: float | None) -> None:
        """Take a workshop, the metric (None for a user's function), and the names of the outputs that are compared.

        `allowed` is the damage that the target allows, None if it is not a damage of outputs.
        """
        self._workshop, self._metric, self._names, self._allowed = workshop, metric, names, allowed or math.inf
        self.known: Measured | None = None
        self._fresh = Measured()

    @cached_property
    def _switched(self) -> tuple[_Switched, _Data]:
        """The model with switches, and pieces to probe single units on; own errors are measured for it (`_fresh`)."""
        units = self._workshop.units
        with Scratch() as folder:
            probes = own_errors(self._workshop, self._fresh, folder)
            model = with_switches(units.model, units.all, probes.small)
        switched = _Switched(model, units.all, self._metric, self._names)
        return switched, switched.on(probes.pieces)

    @cached_property
    def _whole(self) -> _Data:
        """The sets that plans are rehearsed on: those that models are judged on, or as many of them as SETS."""
        return self._switched[0].on(self._workshop.feeds[:: math.ceil(len(self._workshop.feeds) / SETS)])

    def rest(self) -> None:
        """Free the memory that runs need, while a model is made; the next run takes it again."""
        if "_switched" in self.__dict__:
            self._switched[0].close()

    def measured(self) -> Measured:
        """Return what is known of the units, and measure them first if nothing is.

        Raises InputError if a run or a quantiser fails.
        """
        if self.known is None:
            (_, pieces), units, measured = self._switched, self._workshop.units.all, self._fresh
            worst = {unit.name: measured.noisiest(unit.name) for unit in units}
            damages = self._damages({unit: p for unit, p in worst.items() if p}, pieces)
            for unit in units:
                errors, most = measured.errors[unit.name], measured.errors[unit.name].get(worst[unit.name], 0.0)
                measured.damages[unit.name] = {
                    precision: damages[unit.name] * error / most if most and math.isfinite(error) else error
                    for precision, error in errors.items()
                }
            self.known = measured
        return self.known

    def damage(self, precisions: Assignment) -> float:
        """Return the damage of a plan: that of a run in which its units are small.

        What was rehearsed once is not run again.
        """
        known, key = self.measured(), key_of(precisions)
        if key not in known.rehearsed:
            known.rehearsed[key] = self._run(precisions, self._whole)
        return known.rehearsed[key]

    def _run(self, precisions: Assignment, data: _Data) -> float:
        """Return the damage of a plan on some data; add the number of runs to `probes`."""
        (self.known or self._fresh).probes += len(data.sets)
        return self._switched[0].damage(precisions, data)

    def _damages(self, precisions: Assignment, pieces: _Data) -> dict[str, float]:
        """Return the damage of each unit in the precision given, on pieces of the inputs.

        The angles between the errors are noted in `alike`.
        """
        found: dict[str, float] = {}
        alone: dict[str, Array] = {}
        tree = self._workshop.units

        def probed(units: Sequence[Unit]) -> float:
            """Return the damage of some units at once; keep the error of a single unit for the angles."""
            damage = self._run({u.name: precisions[u.name] for u in units if u.name in precisions}, pieces)
            if len(units) == 1:
                alone[units[0].name] = self._switched[0].last
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


@dataclass(frozen=True)
class _Data:
    """Sets of inputs, and the outputs of the model as it is on each."""

    sets: Sequence[Set]
    wanted: Sequence[Outputs]


class _Switched:
    """The model with switches; `last` has the errors of its outputs in the last run."""

    def __init__(self, model: WorkingModel, units: Sequence[Unit], metric: Metric | None, names: Sequence[str]) -> None:
        """Take a model that `with_switches` returned for some units; `names` are the outputs that are compared."""
        self._model, self._metric, self._names = model, metric, names
        inputs = (value.name for value in model.proto.graph.input)
        self._off = {name: np.array(False) for name in inputs if name.startswith(SWITCH)}
        self._units = {unit.name: unit for unit in units}
        self.last: Array = np.zeros(0)

    @cached_property
    def _session(self) -> Any:  # noqa: ANN401 - an untyped library's session
        return opened(self._model)

    def close(self) -> None:
        """Drop the session; the next run opens another one."""
        self.__dict__.pop("_session", None)

    def on(self, sets: Sequence[Set]) -> _Data:
        """Return sets of inputs with the outputs of the model as it is."""
        return _Data(sets, self._outputs({}, sets))

    def damage(self, precisions: Assignment, data: _Data) -> float:
        """Return the damage of units in some precisions."""
        found = self._outputs(precisions, data.sets)
        self.last = _difference(found, data.wanted)
        return damage_of(self._metric, found, data.wanted)

    def _outputs(self, precisions: Assignment, sets: Sequence[Set]) -> list[Outputs]:
        """Return the outputs on each set with units in some precisions."""
        on = {switch(self._units[name], precision): np.array(True) for name, precision in precisions.items()}
        return [run(self._session, self._model, {**each, **self._off, **on}, self._names) for each in sets]
