"""Which values of two graphs are equal in a run of both on the same inputs.

    earlier   x ─ Neg ─a─ Exp ─b─ Relu ─c─ Sqrt ─d─ Abs ─ y
    now       x ─ Neg ─1─ Exp ─2─ Sqrt ─────────────────── y

Both run on the same input. 1 equals a; 2 equals b and c; y equals d and the earlier y. So the Relu and the Abs did
nothing.

Comparing all pairs of values takes the memory of all of them. Comparing hashes fails, because a tool reorders sums and
so changes the last bits. Comparing minimum, maximum and mean fails too, because a transposed value has the same ones.
So each value is summed up in a few numbers that change little if the elements change little, but much if elements
change places: its root mean square, and its products with some waves.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from mxtools.graph.fingerprints import NUMERIC
from mxtools.graph.shapes import Array
from mxtools.matching.correspondence import ValueMatches
from mxtools.pipeline.working_model import WorkingModel
from mxtools.runtime.sessions import inner_tensors
from mxtools.traces.model_inputs import recorded_feeds
from mxtools.traces.values import Values

TOLERANCES = {"float16": 0.05, "bfloat16": 0.2}
"""Largest difference of summaries, relative to the root mean square, at which values of a type are equal.

One result is rounded by 1 in 2048 (float16) or 1 in 256 (bfloat16), and the errors of all layers before it add up.
"""
TOLERANCE_ELSE = 5e-3
"""The same for all other types. Values that are not equal differ by about 1."""
WAVE_COUNT = 8
"""Waves by which a value is multiplied: unequal values do not agree in all of them by chance."""
WAVE_FREQUENCY = 0.7548776662
"""The step of the first wave, in radians per element; the steps of the others are its odd multiples.

It is irrational (the inverse of the plastic number), so no wave repeats itself from row to row.
"""


def equal_values(model: WorkingModel, previous: WorkingModel, values: Values) -> ValueMatches:
    """Run a model and the earlier one, and return each value with the earlier values that it equals.

    Values are equal if they have the same elements in the same order, up to rounding. Values whose elements are all the
    same number are left out. Raises InputError if one of the models does not run on the inputs.
    """
    import numpy as np

    found: dict[tuple[int, str], list[tuple[int, Array]]] = defaultdict(list)
    for value, array in computed_values(previous, values):
        if (summary := summary_of(array)) is not None:
            found[array.size, array.dtype.kind].append((value, summary))
    known = {key: ([v for v, _ in all_], np.stack([s for _, s in all_])) for key, all_ in found.items()}
    equal = {}
    for value, array in computed_values(model, values):
        summary = summary_of(array) if (array.size, array.dtype.kind) in known else None
        if summary is not None:
            numbers, summaries = known[array.size, array.dtype.kind]
            far = np.abs(summaries - summary).max(axis=1) / summary[0]
            tolerance = TOLERANCES.get(array.dtype.name, TOLERANCE_ELSE)
            equal[value] = [v for v, distance in zip(numbers, far, strict=True) if distance < tolerance]
    return equal


def computed_values(model: WorkingModel, values: Values) -> Iterator[tuple[int, Array]]:
    """Run a model; yield the values that nodes of the main graph make, each with its array."""
    graph = model.graph
    given = recorded_feeds(model.proto, model.sidecar, values)
    wanted = {graph.names[value]: 0 for node in graph.main for value in graph.writes[node]}
    for name, array in inner_tensors(model.proto, model.weights, given, wanted):
        yield graph.by_name[name], array


def summary_of(array: Array) -> Array | None:
    """Return a value's root mean square and its products with waves, which depend on the order of the elements.

    Return None if an element is not a finite number, or if all elements are the same.
    """
    import numpy as np

    if array.dtype.kind not in NUMERIC or array.size < 2:
        return None
    flat = array.ravel().astype(np.float64)
    scale = float(np.sqrt(np.mean(flat * flat)))
    if not np.isfinite(scale) or flat.min() == flat.max():
        return None
    place, unit = np.arange(flat.size), np.sqrt(2 / flat.size)
    waves = [unit * float(flat @ np.cos(place * (2 * k + 1) * WAVE_FREQUENCY)) for k in range(WAVE_COUNT)]
    return np.array([scale, *waves])
