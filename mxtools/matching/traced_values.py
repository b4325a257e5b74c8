"""Which tensors of a trace a graph's values are; found by running the graph on the traced inputs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import chain, permutations
from math import prod
from typing import TYPE_CHECKING

from mxtools.graph.fingerprints import fingerprint, same_fingerprint
from mxtools.graph.index import NOWHERE
from mxtools.graph.shapes import Array, torch_kind
from mxtools.pipeline.working_model import WorkingModel
from mxtools.traces.model_inputs import recorded_feeds
from mxtools.traces.values import Values

if TYPE_CHECKING:
    from mxtools.traces.sidecar import Sidecar, TracedTensor

VALUE_TOLERANCE = 1e-3
"""Largest relative difference of equal values: exporters reorder sums, which changes the last of 7 digits."""
ABSOLUTE_SHARE = 0.2
"""The part of it, of the largest element but at most of 1, that elements near 0 get.

They may be what is left of large summands.
"""
ROUNDING = 1e-6
"""The difference that any element may have, as a share of the largest element, or of 1 if all are smaller."""
LIKE = 0.95
"""Least cosine of a quantised value and of what it stands for: 4-bit weights leave more, a Relu or a residual less."""
MOST_DIMENSIONS = 5
"""Dimensions up to which an array is compared with a tensor in all orders of them: 5 dimensions have 120 orders."""


@dataclass(frozen=True)
class TensorMatch:
    """Ids of the tensors of a trace that an array matches.

    Attributes: `equal`, those with the same elements in the same order; `transposed`, those with the same elements and
    the dimensions in another order; `alike`, those of the same shape whose elements are all the same number, as the
    array's are.
    """

    equal: Collection[int] = ()
    transposed: Collection[int] = ()
    alike: Collection[int] = ()


class TensorMatcher:
    """Finds the tensors of a trace that have an array's elements; the shape does not matter.

    If all elements are the same number, the shape must be the same too. Tensors of one element are left out. In both
    cases, too many values look the same.
    """

    def __init__(self, sidecar: Sidecar, values: Values | None) -> None:
        """Index the tensors of all calls by size and kind; without values, their fingerprints must do."""
        self._values = values
        self._known: dict[tuple[int, str], list[TracedTensor]] = defaultdict(list)
        unique = {t.id: t for call in sidecar.calls for t in (*call.inputs, *call.outputs, *call.leaves)}
        for tensor in unique.values():
            if tensor.fingerprint and tensor.fingerprint[0] > 1:
                self._known[prod(tensor.shape), torch_kind(tensor.dtype)].append(tensor)

    def sizes(self) -> set[int]:
        """Return the numbers of elements that tensors of the trace have."""
        return {size for size, _ in self._known}

    def find(self, array: Array) -> TensorMatch:
        """Return the ids of the tensors that an array matches."""
        kind = "i" if array.dtype.kind == "u" else array.dtype.kind
        candidates = self._known.get((array.size, kind), [])
        summary = fingerprint(array) if candidates else None
        if summary is None:
            return TensorMatch()
        near = [t for t in candidates if t.fingerprint and same_fingerprint(summary, t.fingerprint, VALUE_TOLERANCE)]
        if summary[1] == summary[2]:
            return TensorMatch(alike={t.id for t in near if t.shape == array.shape})
        equal = {t.id for t in near if self._equal(array, t)}
        transposed = {t.id for t in near if t.id not in equal and self._is_transposed(array, t)}
        return TensorMatch(equal, transposed)

    def _is_transposed(self, array: Array, tensor: TracedTensor) -> bool:
        """Return whether an array is a tensor with its dimensions in another order."""
        dims = [d for d in tensor.shape if d != 1]
        plain = array.reshape([d for d in array.shape if d != 1])
        if not 1 < len(dims) <= MOST_DIMENSIONS or sorted(plain.shape) != sorted(dims):
            return False
        orders = permutations(range(len(dims)))
        return any(
            [plain.shape[i] for i in order] == dims and self._equal(plain.transpose(order), tensor) for order in orders
        )

    def _equal(self, array: Array, tensor: TracedTensor) -> bool:
        recorded = self._values.get(str(tensor.id)) if self._values else None
        return recorded is None or same_values(array, recorded)


def same_values(array: Array, wanted: Array) -> bool:
    """Return whether two arrays have the same elements in the same order, up to rounding; shapes do not matter."""
    import numpy as np

    a, b = array.ravel(), wanted.ravel()
    if a.size != b.size or a.dtype.kind != "f":
        return bool(np.array_equal(a, b))
    largest = float(np.abs(b[np.isfinite(b)]).max(initial=0.0))
    absolute = VALUE_TOLERANCE * ABSOLUTE_SHARE * min(1.0, largest) + ROUNDING * max(1.0, largest)
    return bool(np.allclose(a, b, rtol=VALUE_TOLERANCE, atol=absolute, equal_nan=True))


def matched_values(
    model: WorkingModel, sidecar: Sidecar, values: Values, transposed: bool = True
) -> dict[int, list[int]]:
    """Run the graph on the traced inputs; return for each tensor of the trace, by id, the values that are this tensor.

    The values of a tensor are in the order in which they are made. If none has its elements in their order, it is those
    with the dimensions in another order, unless `transposed` is false. Raises InputError if the graph does not run.
    """
    from mxtools.runtime.sessions import inner_tensors

    graph, shapes = model.graph, model.shapes
    matcher = TensorMatcher(sidecar, values)
    sizes = matcher.sizes()
    given = recorded_feeds(model.proto, sidecar, values)
    wanted = {}
    for node in graph.main:
        for value in graph.writes[node]:
            count = shape.count if (shape := shapes[value]) else None
            if count is None or count in sizes:
                wanted[graph.names[value]] = 8 * (count or 0)
    found: dict[str, dict[int, list[int]]] = {kind: defaultdict(list) for kind in ("equal", "transposed", "alike")}
    arrays = [
        *given.items(),
        *((graph.names[v], model.weights.array(t)) for v, t in graph.initializers.items() if prod(t.dims) in sizes),
    ]
    for name, array in chain(arrays, inner_tensors(model.proto, model.weights, given, wanted)):
        for kind, tensors in vars(matcher.find(array)).items():
            for tensor in tensors:
                found[kind][tensor].append(graph.by_name[name])
    matches = found["equal"]
    matches.update(_one_to_one(found["alike"]))
    if transposed:
        matches.update({tensor: at for tensor, at in found["transposed"].items() if tensor not in matches})
    return {tensor: sorted(at, key=lambda v: graph.producer[v]) for tensor, at in matches.items()}


def recorded_matches(model: WorkingModel) -> dict[int, list[int]]:
    """Return what `matched_values` returns for a model's own trace and values; nothing without them; for `once`."""
    return matched_values(model, model.traced, model.values) if model.traced and model.values else {}


def near_values(
    model: WorkingModel, sidecar: Sidecar, values: Values, candidates: Mapping[int, Collection[int]]
) -> dict[int, set[int]]:
    """Run the graph on the traced inputs; return those of the candidates that are near each tensor, by its id.

    How near depends on the numbers that the graph computes with. Raises InputError if the graph does not run.
    """
    from mxtools.runtime.distance import distance
    from mxtools.runtime.sessions import inner_tensors
    from mxtools.runtime.tolerances import QUANTISED, tolerance_of

    graph, tolerance = model.graph, tolerance_of(model.proto, model.graph)
    tensors = defaultdict(list)
    for tensor, at in candidates.items():
        for value in at:
            tensors[value].append(tensor)
    given = recorded_feeds(model.proto, sidecar, values)
    wanted = {graph.names[v]: model.shapes.bytes_of(v) for v in tensors if graph.producer[v] != NOWHERE}
    found: dict[int, set[int]] = {tensor: set() for tensor in candidates}
    for name, array in chain(given.items(), inner_tensors(model.proto, model.weights, given, wanted)):
        value = graph.by_name[name]
        for tensor in tensors.get(value, ()):
            recorded = values.get(str(tensor))
            apart = None if recorded is None else distance(array, recorded)
            is_like = apart is not None and tolerance.limit >= QUANTISED and apart.cosine >= LIKE
            if apart is not None and (is_like or tolerance.is_right(apart)):
                found[tensor].add(value)
    return found


def _one_to_one(found: dict[int, list[int]]) -> dict[int, list[int]]:
    """Return the matches whose tensor and value match nothing else: looking alike alone says too little."""
    times_ = Counter(value for values in found.values() for value in values)
    return {tensor: values for tensor, values in found.items() if len(values) == 1 == times_[values[0]]}
