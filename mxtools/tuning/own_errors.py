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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from mxtools.files.temporary import Scratch
from mxtools.files.weights import bytes_of
from mxtools.files.writing import write_model
from mxtools.graph.index import Graph
from mxtools.graph.shapes import Array
from mxtools.graph.walk import nodes_behind
from mxtools.pipeline.working_model import WorkingModel
from mxtools.runtime.sessions import BATCH_BYTES, REFERENCE
from mxtools.tuning.metrics import Outputs, energies, noise_ratio
from mxtools.tuning.probe_graphs import GIVEN, SEEN, read_by, result_of, side_by_side, with_outputs
from mxtools.tuning.samples import Set, pieces
from mxtools.tuning.units import Unit
from mxtools.tuning.workshop import Workshop, made_by

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
    make at the outputs; `probes`, how often the model was run with errors added, once for each piece; `rehearsed`, the
    damages of whole plans by their keys (`units.key_of`).
    """

    errors: dict[str, dict[str, float]] = field(default_factory=dict)
    damages: dict[str, dict[str, float]] = field(default_factory=dict)
    sizes: dict[str, dict[str, int]] = field(default_factory=dict)
    alike: list[list[float]] = field(default_factory=list)
    probes: int = 0
    rehearsed: dict[str, float] = field(default_factory=dict)

    def noisiest(self, unit: str) -> str:
        """Return the precision in which a unit has the largest finite own error; an empty text if it has none."""
        finite = {precision: error for precision, error in self.errors[unit].items() if math.isfinite(error)}
        return max(finite, key=lambda precision: finite[precision], default="")


class OwnErrors:
    """The noise that units make at their own results, by precision, on pieces of the inputs.

    Attributes: `feeds`, the pieces of the inputs, as many as fit into memory (`BATCH_BYTES`) with what units read and
    make there; `wanted`, the outputs of the model as it is on each piece; `few`, the number of pieces that are enough
    to probe single units and modules; `noises`, by precision a list with the noise on each piece, which is an array for
    each result of a node, of the same shape.
    """

    def __init__(self, workshop: Workshop, names: Sequence[str], measured: Measured) -> None:
        """Run the model as it is, and all units side by side in each precision; write errors and sizes into `measured`.

        `names` are the outputs that are compared. Raises InputError if a run or a quantiser fails.
        """
        self.units = workshop.units
        self.model, self.graph = workshop.units.model, workshop.units.model.graph
        self.nodes = [node for unit in self.units.all for node in unit.nodes]
        values = self._values(workshop, names)
        self.wanted: list[Outputs] = [{name: each[name] for name in names} for each in values]
        self.noises: dict[str, list[Arrays]] = {}
        with Scratch() as folder:
            for quantiser in self.units.quantisers:
                self.noises[quantiser.precision] = self._noise(quantiser.precision, values, measured, folder)

    def _values(self, workshop: Workshop, names: Sequence[str]) -> list[Arrays]:
        """Return, for each piece, what units read and make, and the outputs; choose the pieces (`feeds`, `few`)."""
        inner = [*read_by(self.graph, self.nodes), *(result_of(self.graph, node) for node in self.nodes)]
        given = {value.name for value in self.model.proto.graph.input}
        wanted = [name for name in dict.fromkeys((*inner, *names)) if name not in given]
        load = REFERENCE.load(with_outputs(self.model.proto, wanted), self.model.weights)

        def run(feeds: Set) -> Arrays:
            return {**feeds, **dict(zip(wanted, load(wanted, feeds), strict=True))}

        self.feeds = pieces(self.model.proto, workshop.feeds)
        first = run(self.feeds[0])
        size = sum(array.nbytes for array in first.values()) or 1
        self.few = max(1, PROBED_BYTES // size)
        self.feeds = self.feeds[: max(1, BATCH_BYTES // size // (1 + len(self.units.quantisers)))]
        return [first, *map(run, islice(self.feeds, 1, None))]

    def results(self, unit: Unit) -> list[str]:
        """Return the names of the values that a unit makes, one for each of its nodes."""
        return [result_of(self.graph, node) for node in unit.nodes]

    def _noise(self, precision: str, values: Sequence[Arrays], measured: Measured, folder: Path) -> list[Arrays]:
        """Measure own errors and sizes of units in one precision; return the noise by result, for each piece."""
        units = [unit for unit in self.units.all if precision in unit.precisions]
        nodes = [node for unit in units for node in unit.nodes]
        if not units:
            return [{} for _ in values]
        source, read = folder / f"{precision}.onnx", read_by(self.graph, nodes)
        write_model(side_by_side(self.model.proto, self.graph, nodes, values[0]), self.model.weights, source)
        feeds = [{GIVEN + name: each[name] for name in read} for each in values]
        steps = self.units.steps({unit.name: precision for unit in units})
        with Scratch() as place:
            made = WorkingModel.read(made_by(steps, source, place, feeds, place / "ranges.json"))
            names = [result_of(self.graph, node) for node in nodes]
            run, seen = REFERENCE.load(made.proto, made.weights), [name + SEEN for name in names]
            found = [dict(zip(names, run(seen, given), strict=True)) for given in feeds]
        for unit in units:
            results = self.results(unit)
            parts = [energies(array[r], each[r]) for array, each in zip(found, values, strict=True) for r in results]
            measured.errors.setdefault(unit.name, {})[precision] = noise_ratio(parts)
            measured.sizes.setdefault(unit.name, {})[precision] = _size(made.graph, results)
        return [{name: array[name] - each[name] for name in array} for array, each in zip(found, values, strict=True)]


def _size(graph: Graph, results: Sequence[str]) -> int:
    """Return the bytes of all stored tensors that some results of a side-by-side graph are computed from."""
    nodes = nodes_behind(graph, [graph.by_name[name + SEEN] for name in results], until=lambda _: False)
    stored = {v for node in nodes for v in graph.reads[node] if v in graph.initializers}
    return sum(bytes_of(graph.initializers[value]) for value in stored)


def shares(errors: Mapping[str, float], damage: float) -> dict[str, float]:
    """Divide a damage among some units in proportion to their own errors; return the part of each by its name."""
    total = sum(errors.values())
    return {name: damage * error / total if total else 0.0 for name, error in errors.items()}
