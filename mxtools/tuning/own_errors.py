"""What each unit does to the result, without making a model for each.

First every unit's own error. All units are put side by side into one graph, each fed what it has in the model as it is,
and that graph is quantised once for each precision. Three products of a chain:

    x ─ A ─ B ─ C ─ y            x ─ A ─    a ─ B ─    b ─ C ─

Then what comes of it at the end. The model as it is gets an input behind each unit, which is added to its result. It is
run with the own error of some units there, and nothing of the others: a probe. Small errors add up, so a module with
many units is probed whole, and opened only where what it does is a good part of what all do together. What a unit does
in another precision follows from its own error there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mxtools.files.temporary import Scratch
from mxtools.files.weights import bytes_of
from mxtools.files.writing import write_model
from mxtools.graph.index import Graph
from mxtools.graph.shapes import Array
from mxtools.graph.walk import nodes_behind
from mxtools.pipeline.working_model import WorkingModel
from mxtools.runtime.sessions import BATCH_BYTES, REFERENCE
from mxtools.scopes.hierarchy import ROOT_CALL
from mxtools.tuning.judging import damage_of
from mxtools.tuning.metrics import Metric, Outputs, energies, noise_ratio
from mxtools.tuning.probe_graphs import (
    ADDED,
    GIVEN,
    SEEN,
    read_by,
    result_of,
    side_by_side,
    with_errors_added,
    with_outputs,
)
from mxtools.tuning.samples import Set, few
from mxtools.tuning.units import Unit
from mxtools.tuning.workshop import Workshop, made_by

OPENED = 0.03
"""The share of the damage of all units together, or of what is allowed, from which on a module is opened."""
TOGETHER = 2
"""A module with so many units is opened at once: probing it whole would spare nothing."""

Arrays = dict[str, Array]


@dataclass
class Measured:
    """What is known of each unit by precision.

    Attributes: own `errors`, the energy of the noise over that of its result; `damages` at the end; `sizes` in bytes;
    `probes`, how often the model was run with added errors, on a few inputs.
    """

    errors: dict[str, dict[str, float]] = field(default_factory=dict)
    damages: dict[str, dict[str, float]] = field(default_factory=dict)
    sizes: dict[str, dict[str, int]] = field(default_factory=dict)
    probes: int = 0


def measure(workshop: Workshop, metric: Metric | None, names: Sequence[str], allowed: float | None) -> Measured:
    """Return what is known of all units, with damages to some outputs; `allowed` is the damage that matters."""
    runs = _Runs(workshop, metric, names)
    measured, noises = Measured(), dict[str, list[Arrays]]()
    with Scratch() as folder:
        for quantiser in workshop.units.quantisers:
            noises[quantiser.precision] = runs.own(quantiser.precision, measured, folder)
    worst = {unit.name: _noisiest(measured.errors[unit.name]) for unit in workshop.units.all}
    noise = [
        {r: noises[p][at][r] for u in workshop.units.all if (p := worst[u.name]) for r in runs.results(u)}
        for at in range(len(runs.values))
    ]
    damages = _Probes(runs, noise, measured, allowed or math.inf).damages()
    for unit in workshop.units.all:
        errors, reference = measured.errors[unit.name], measured.errors[unit.name].get(worst[unit.name], 0.0)
        measured.damages[unit.name] = {
            precision: damages[unit.name] * error / reference if reference and math.isfinite(error) else error
            for precision, error in errors.items()
        }
    return measured


def _noisiest(errors: Mapping[str, float]) -> str:
    """Return the precision with the largest finite error; empty where there is none."""
    finite = {precision: error for precision, error in errors.items() if math.isfinite(error)}
    return max(finite, key=lambda precision: finite[precision], default="")


class _Runs:
    """Runs of the model as it is on a few inputs: `values` are what units read and make there, and the outputs."""

    def __init__(self, workshop: Workshop, metric: Metric | None, names: Sequence[str]) -> None:
        self.units, self.metric, self.names = workshop.units, metric, names
        self.model, self.graph = workshop.units.model, workshop.units.model.graph
        self.nodes = [node for unit in self.units.all for node in unit.nodes]
        inner = [*read_by(self.graph, self.nodes), *(result_of(self.graph, node) for node in self.nodes)]
        given = {value.name for value in self.model.proto.graph.input}
        self._wanted = [name for name in dict.fromkeys((*inner, *names)) if name not in given]
        self._load = REFERENCE.load(with_outputs(self.model.proto, self._wanted), self.model.weights)
        self.feeds = few(self.model.proto, workshop.feeds)
        self.values = [self._run(self.feeds[0])]
        size = sum(array.nbytes for array in self.values[0].values())
        self.feeds = self.feeds[: max(1, BATCH_BYTES // max(1, size))]
        self.values += [self._run(feeds) for feeds in self.feeds[1:]]
        self.wanted: list[Outputs] = [{name: values[name] for name in names} for values in self.values]

    def _run(self, feeds: Set) -> Arrays:
        return {**feeds, **dict(zip(self._wanted, self._load(self._wanted, feeds), strict=True))}

    def results(self, unit: Unit) -> list[str]:
        """Return the names of what a unit makes."""
        return [result_of(self.graph, node) for node in unit.nodes]

    def own(self, precision: str, measured: Measured, folder: Path) -> list[Arrays]:
        """Measure the own errors and sizes of units in one precision; return the noise by result, of each set."""
        units = [unit for unit in self.units.all if precision in unit.precisions]
        nodes = [node for unit in units for node in unit.nodes]
        if not units:
            return [{} for _ in self.values]
        source, read = folder / f"{precision}.onnx", read_by(self.graph, nodes)
        write_model(side_by_side(self.model.proto, self.graph, nodes, self.values[0]), self.model.weights, source)
        feeds = [{GIVEN + name: values[name] for name in read} for values in self.values]
        steps = self.units.steps({unit.name: precision for unit in units})
        with Scratch() as place:
            made = WorkingModel.read(made_by(steps, source, place, feeds, place / "ranges.json"))
            names = [result_of(self.graph, node) for node in nodes]
            run, seen = REFERENCE.load(made.proto, made.weights), [name + SEEN for name in names]
            found = [dict(zip(names, run(seen, given), strict=True)) for given in feeds]
        for unit in units:
            results = self.results(unit)
            parts = [
                energies(array[r], values[r]) for array, values in zip(found, self.values, strict=True) for r in results
            ]
            measured.errors.setdefault(unit.name, {})[precision] = noise_ratio(parts)
            measured.sizes.setdefault(unit.name, {})[precision] = _size(made.graph, results)
        return [
            {name: array[name] - values[name] for name in array}
            for array, values in zip(found, self.values, strict=True)
        ]


def _size(graph: Graph, results: Sequence[str]) -> int:
    """Return the bytes of what is stored for some results."""
    nodes = nodes_behind(graph, [graph.by_name[name + SEEN] for name in results], until=lambda _: False)
    stored = {v for node in nodes for v in graph.reads[node] if v in graph.initializers}
    return sum(bytes_of(graph.initializers[value]) for value in stored)


class _Probes:
    """Runs the model with errors of units added to what these make."""

    def __init__(self, runs: _Runs, noise: Sequence[Arrays], measured: Measured, allowed: float) -> None:
        """Take the noise by result of each set."""
        self._runs, self._noise, self._measured, self._allowed = runs, noise, measured, allowed
        altered = with_errors_added(runs.model.proto, runs.graph, runs.nodes)
        self._run = REFERENCE.load(with_outputs(altered, runs.names), runs.model.weights)
        self._nothing = {ADDED + result_of(runs.graph, node): np.zeros((), np.float32) for node in runs.nodes}
        self._found: dict[str, float] = {}

    def damages(self) -> dict[str, float]:
        """Return the damage that each unit does."""
        units = self._runs.units.all
        self._open(ROOT_CALL, min(self._probe(units), self._allowed))
        return self._found

    def _open(self, call: int, whole: float) -> None:
        """Probe what is in a call, and open those of its modules that hurt."""
        for child, units in self._runs.units.children(call):
            if child is None or len(units) == 1:
                self._found[units[0].name] = self._probe(units)
            elif (
                len(units) <= TOGETHER
                or len(units) == len(self._runs.units.inside[call])
                or not (damage := self._probe(units)) < OPENED * whole
            ):
                self._open(child, whole)
            else:
                self._share(units, damage)

    def _share(self, units: Sequence[Unit], damage: float) -> None:
        """Give each unit of a module that hurts little its part of the damage, by its own error."""
        errors = {u.name: self._measured.errors[u.name].get(_noisiest(self._measured.errors[u.name]), 0) for u in units}
        total = sum(errors.values())
        self._found |= {name: damage * error / total if total else 0.0 for name, error in errors.items()}

    def _probe(self, units: Sequence[Unit]) -> float:
        """Return the damage of the own errors of some units."""
        names = [name for unit in units for name in self._runs.results(unit)]
        found: list[Outputs] = []
        for feeds, noise in zip(self._runs.feeds, self._noise, strict=True):
            added = {ADDED + name: noise[name] for name in names if name in noise}
            found.append(
                dict(
                    zip(self._runs.names, self._run(self._runs.names, {**feeds, **self._nothing, **added}), strict=True)
                )
            )
            self._measured.probes += 1
        return damage_of(self._runs.metric, found, self._runs.wanted)
