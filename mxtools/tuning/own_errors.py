"""The own error of each unit: what it does wrong by itself, measured without a model for each unit.

    the model as it is                    all units side by side

    x ─ A ─ a ─ B ─ b ─ C ─ y             x ─ A ─ a'
                                          a ─ B ─ b'
                                          b ─ C ─ y'

The units of the chain are three matrix products. The model as it is runs once on each piece of the inputs, and returns
what its units read and make: x, a, b and y. The second graph has the same units, but they are not connected: what each
reads is an input of the graph, and what it makes an output. That graph is quantised, all of it to int8 say, and is fed
what was recorded, x, a and b. So B reads the right a, not that of a quantised A, and the noise b' - b is of B alone:

    unit    noise at its result    its energy divided by that of the result
    A       a' - a                 0.0001
    B       b' - b                 0.02       B has large weights beside small ones
    C       y' - y                 0.0002

This takes one quantisation for each precision; a model for each unit would take one for each unit and precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from mxtools.errors import InputError
from mxtools.files.weights import bytes_of, inline_within
from mxtools.files.writing import write_model
from mxtools.graph.index import Graph
from mxtools.graph.operators import operator_and_attributes
from mxtools.graph.shapes import Array
from mxtools.graph.walk import nodes_behind
from mxtools.pipeline.working_model import WorkingModel
from mxtools.runtime.sessions import BATCH_BYTES, REFERENCE
from mxtools.tuning.metrics import energies, noise_ratio
from mxtools.tuning.probe_graphs import GIVEN, SEEN, alone, read_by, results_of, side_by_side, with_outputs
from mxtools.tuning.quantisers import FLOAT
from mxtools.tuning.samples import Set, pieces
from mxtools.tuning.units import Unit
from mxtools.tuning.workshop import Workshop, made_by, seconds_of

PROBED_BYTES = 1 << 26
"""Single units and modules are run on so many pieces that what all units read and make there has about these bytes."""

Arrays = dict[str, Array]
"""Arrays by the names of values."""


@dataclass
class Measured:
    """What was measured of the units; the first three by the name of the unit, then by precision.

    Attributes: `errors`, the own error, which is the energy of the noise divided by that of the result, infinite if the
    unit returns no finite numbers; `damages`, what this error does at the outputs of the model; `sizes`, in bytes;
    `alike`, a square matrix in the order of the units, with the cosine of the angle between the errors that two units
    make at the outputs; `probes`, how often the model was run with switches on, once for each set or piece;
    `rehearsed`, the damages of whole plans by their keys (`units.key_of`); `times`, the nanoseconds that a unit takes
    alone, with those in float32 too, empty unless the search is for models that are fast.
    """

    errors: dict[str, dict[str, float]] = field(default_factory=dict)
    damages: dict[str, dict[str, float]] = field(default_factory=dict)
    sizes: dict[str, dict[str, int]] = field(default_factory=dict)
    alike: list[list[float]] = field(default_factory=list)
    probes: int = 0
    rehearsed: dict[str, float] = field(default_factory=dict)
    times: dict[str, dict[str, int]] = field(default_factory=dict)

    def noisiest(self, unit: str) -> str:
        """Return the precision in which a unit has the largest finite own error; an empty text if it has none."""
        finite = {precision: error for precision, error in self.errors[unit].items() if math.isfinite(error)}
        return max(finite, key=lambda precision: finite[precision], default="")


@dataclass(frozen=True)
class Probes:
    """What single units are probed with.

    Attributes: `pieces` of the inputs, a few that are enough; `small`, by precision all units that can have it, side by
    side, as the quantiser made them.
    """

    pieces: Sequence[Set]
    small: Mapping[str, WorkingModel]


def own_errors(workshop: Workshop, measured: Measured, folder: Path) -> Probes:
    """Measure the own errors and the sizes of all units in all their precisions, and write them into `measured`.

    What quantisers make is written to `folder`. A precision in which units cannot be made, or do not run, has infinite
    errors. Raises InputError if that is true of all of them, or the model as it is does not run.
    """
    graph, units = workshop.units.model.graph, workshop.units.all
    run = _run(workshop)
    found, few, values = _values(workshop, run)
    small, failure = {}, None
    for precision in dict.fromkeys(precision for unit in units for precision in unit.precisions):
        taken = [unit for unit in units if precision in unit.precisions]
        names = [name for unit in taken for name in _results(graph, unit)]
        try:
            made = _small(workshop, taken, precision, values, folder)
            load, seen = REFERENCE.load(made.proto, made.weights), [name + SEEN for name in names]
            noisy = [dict(zip(names, load(seen, _given(graph, taken, each)), strict=True)) for each in values]
        except InputError as error:
            failure = error
            for unit in taken:
                measured.errors.setdefault(unit.name, {})[precision] = math.inf
                measured.sizes.setdefault(unit.name, {})[precision] = unit.size
            continue
        small[precision] = made
        for unit in taken:
            results = _results(graph, unit)
            parts = [energies(noise[r], each[r]) for noise, each in zip(noisy, values, strict=True) for r in results]
            measured.errors.setdefault(unit.name, {})[precision] = noise_ratio(parts)
            measured.sizes.setdefault(unit.name, {})[precision] = _size(made.graph, results)
    if failure and not small:
        raise failure
    if workshop.is_timed:
        _time(workshop, small, run(workshop.feeds[0]), measured)  # models are timed on the first set, too
    return Probes(found[:few], small)


def _values(workshop: Workshop, run: Callable[[Set], Arrays]) -> tuple[list[Set], int, list[Arrays]]:
    """Return pieces of the inputs, how many of them are enough for probes, and what units read and make on each."""
    found = pieces(workshop.units.model.proto, workshop.feeds)
    first = run(found[0])
    size = sum(array.nbytes for array in first.values()) or 1
    found = found[: max(1, BATCH_BYTES // size // 2)]  # the other half is for what small units make
    return found, max(1, PROBED_BYTES // size), [first, *map(run, islice(found, 1, None))]


def _run(workshop: Workshop) -> Callable[[Set], Arrays]:
    """Return a function that runs the model as it is, and returns what units read and make, and the inputs."""
    model = workshop.units.model
    given = {value.name for value in model.proto.graph.input}
    read = read_by(model.graph, (node for unit in workshop.units.all for node in unit.nodes))
    made = (name for unit in workshop.units.all for name in _results(model.graph, unit))
    wanted = [name for name in dict.fromkeys((*read, *made)) if name not in given]
    load = REFERENCE.load(with_outputs(model.proto, wanted), model.weights)
    return lambda feeds: {**feeds, **dict(zip(wanted, load(wanted, feeds), strict=True))}


def _small(
    workshop: Workshop, units: Sequence[Unit], precision: str, values: Sequence[Arrays], folder: Path
) -> WorkingModel:
    """Return units side by side in a precision, as its quantiser makes them with its files in `folder`."""
    model, place = workshop.units.model, folder / precision
    place.mkdir()
    source, nodes = place / "units.onnx", [node for unit in units for node in unit.nodes]
    write_model(side_by_side(model.proto, model.graph, nodes, values[0]), model.weights, source)
    steps = workshop.units.steps({unit.name: precision for unit in units})
    feeds = [_given(model.graph, units, each) for each in values]
    made = WorkingModel.read(made_by(steps, source, place, feeds, place / "ranges.json"))
    inline_within(made.proto, made.weights, place)
    return made


def _results(graph: Graph, unit: Unit) -> list[str]:
    """Return the names of the values that a unit makes."""
    return [name for node in unit.nodes for name in results_of(graph, node)]


def _time(workshop: Workshop, small: Mapping[str, WorkingModel], values: Arrays, measured: Measured) -> None:
    """Measure how long each unit takes alone in each precision, given what units read; alike ones are measured once.

    They are alike if their operators, attributes, weights and inputs have the same types and shapes.
    """
    model, units = workshop.units.model, workshop.units.all
    nodes = [node for unit in units for node in unit.nodes]
    own = model.with_proto(side_by_side(model.proto, model.graph, nodes, values))
    known: dict[Hashable, int] = {}
    for precision, made in ((FLOAT, own), *small.items()):
        for unit in (unit for unit in units if precision in (FLOAT, *unit.precisions)):
            feeds = _given(model.graph, [unit], values)
            key = precision, tuple(_kind(model.graph, n) for n in unit.nodes), tuple(a.shape for a in feeds.values())
            if key not in known:
                known[key] = round(1e9 * seconds_of(alone(made, _results(model.graph, unit)), feeds))
            measured.times.setdefault(unit.name, {})[precision] = known[key]


def _kind(graph: Graph, node: int) -> Hashable:
    """Return operator, attributes and types of the weights of a node."""
    weights = (graph.initializers[value] for value in graph.reads[node] if value in graph.initializers)
    return operator_and_attributes(graph.nodes[node]), *((w.data_type, *w.dims) for w in weights)


def _given(graph: Graph, units: Sequence[Unit], values: Arrays) -> Arrays:
    """Return what units read, by the names of the inputs of the graph in which they stand side by side."""
    return {GIVEN + name: values[name] for name in read_by(graph, (node for unit in units for node in unit.nodes))}


def _size(graph: Graph, results: Sequence[str]) -> int:
    """Return the bytes of all stored tensors that some results of a side-by-side graph are computed from."""
    nodes = nodes_behind(graph, [graph.by_name[name + SEEN] for name in results], until=lambda _: False)
    stored = {v for node in nodes for v in graph.reads[node] if v in graph.initializers}
    return sum(bytes_of(graph.initializers[value]) for value in stored)


def shares(errors: Mapping[str, float], damage: float) -> dict[str, float]:
    """Divide a damage among some units in proportion to their own errors; return the part of each by its name."""
    total = sum(errors.values())
    return {name: damage * error / total if total else 0.0 for name, error in errors.items()}
