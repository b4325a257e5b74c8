"""What each unit does wrong on its own, without making a model for each.

All units are put side by side into one graph, each fed what it has in the model as it is, and that graph is quantised
once for each precision. Three products of a chain:

    x ─ A ─ B ─ C ─ y            x ─ A ─    a ─ B ─    b ─ C ─
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
"""Bytes of what units read and make in the pieces that each of them is run on."""

Arrays = dict[str, Array]


@dataclass
class Measured:
    """What is known of each unit by precision.

    Attributes: own `errors`, the energy of the noise over that of its result; `damages` at the end; `sizes` in bytes;
    `alike`, how far the errors of two units point in the same direction at the end, in the order of the units;
    `probes`, how often the model was run with added errors; `rehearsed`, the damages of whole plans by their keys.
    """

    errors: dict[str, dict[str, float]] = field(default_factory=dict)
    damages: dict[str, dict[str, float]] = field(default_factory=dict)
    sizes: dict[str, dict[str, int]] = field(default_factory=dict)
    alike: list[list[float]] = field(default_factory=list)
    probes: int = 0
    rehearsed: dict[str, float] = field(default_factory=dict)

    def noisiest(self, unit: str) -> str:
        """Return the precision in which a unit has the largest finite error; empty where there is none."""
        finite = {precision: error for precision, error in self.errors[unit].items() if math.isfinite(error)}
        return max(finite, key=lambda precision: finite[precision], default="")


class OwnErrors:
    """The noise that units make on their own, by precision, on pieces of the inputs.

    Attributes: `feeds`, the pieces, as many as fit into memory with what units read and make there; `wanted`, outputs
    of the model as it is on each piece; `few`, on how many of them single units are run; `noises`, by precision and
    piece, what is added to the result of each node.
    """

    def __init__(self, workshop: Workshop, names: Sequence[str], measured: Measured) -> None:
        """Run the model as it is, and all units side by side in each precision; `measured` gets errors and sizes."""
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
        """Return what units read and make in the model as it is, and its outputs, on each piece that fits."""
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
        """Return the names of what a unit makes."""
        return [result_of(self.graph, node) for node in unit.nodes]

    def _noise(self, precision: str, values: Sequence[Arrays], measured: Measured, folder: Path) -> list[Arrays]:
        """Measure the own errors and sizes of units in one precision; return the noise by result, of each piece."""
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
    """Return the bytes of what is stored for some results."""
    nodes = nodes_behind(graph, [graph.by_name[name + SEEN] for name in results], until=lambda _: False)
    stored = {v for node in nodes for v in graph.reads[node] if v in graph.initializers}
    return sum(bytes_of(graph.initializers[value]) for value in stored)


def shares(errors: Mapping[str, float], damage: float) -> dict[str, float]:
    """Return the part of a damage of each of some units, by their own errors."""
    total = sum(errors.values())
    return {name: damage * error / total if total else 0.0 for name, error in errors.items()}
