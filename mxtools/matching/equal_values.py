"""Which values of two graphs are equal in a run of both on the same inputs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from mxtools.graph.shapes import Array
from mxtools.matching.correspondence import ValueMatches
from mxtools.pipeline.working_model import WorkingModel
from mxtools.runtime.sessions import inner_tensors
from mxtools.traces.values import Values, feeds

CLOSE = {"float16": 0.05, "bfloat16": 0.2}
"""Difference of the summaries of values of a type, relative to their root mean square, up to which these are equal."""
CLOSE_ELSE = 5e-3
WAVES = 8
"""Numbers that sum a value up, besides its root mean square."""


def equal_values(model: WorkingModel, previous: WorkingModel, values: Values) -> ValueMatches:
    """Run a model and the earlier one; give the values with the earlier values that they equal.

    Values are equal if they have the same elements in the same order, up to rounding; of those whose elements are all
    one number nothing is said. Raises InputError where one of the models does not run on the inputs.
    """
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
            close = CLOSE.get(array.dtype.name, CLOSE_ELSE)
            equal[value] = [v for v, distance in zip(numbers, far, strict=True) if distance < close]
    return equal


def computed_values(model: WorkingModel, values: Values) -> Iterator[tuple[int, Array]]:
    """Give the values that nodes of the main graph make, as a run computes them."""
    graph = model.graph
    names = [info.name for info in model.proto.graph.input if graph.by_name[info.name] not in graph.initializers]
    named = {name: array for name in names if (array := values.get(name)) is not None}
    given = feeds(model.sidecar, values, names) if model.sidecar else named
    wanted = {graph.names[value]: 0 for node in graph.main for value in graph.writes[node]}
    for name, array in inner_tensors(model.proto, model.weights, given, wanted):
        yield graph.by_name[name], array


def summary_of(array: Array) -> Array | None:
    """Give the root mean square of a value's elements and its products with waves, which tell their order.

    None where the elements are no finite numbers, or all the same.
    """
    if array.dtype.kind not in "fiub" or array.size < 2:
        return None
    flat = array.ravel().astype(np.float64)
    scale = float(np.sqrt(np.mean(flat * flat)))
    if not np.isfinite(scale) or flat.min() == flat.max():
        return None
    place = np.arange(flat.size)
    waves = [np.sqrt(2 / flat.size) * float(flat @ np.cos(place * (2 * k + 1) * 0.7548776662)) for k in range(WAVES)]
    return np.array([scale, *waves])
