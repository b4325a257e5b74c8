"""Constants of a graph that equal tensors of a trace."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING

from mxtools.graph.constants import constant_arrays
from mxtools.graph.fingerprints import fingerprint, same_fingerprint
from mxtools.pipeline.working_model import WorkingModel
from mxtools.traces.traced_calls import full_name

if TYPE_CHECKING:
    from mxtools.traces.sidecar import TracedTensor


def constants_equal_to(model: WorkingModel, tensors: Iterable[TracedTensor]) -> dict[int, set[int]]:
    """Return for each constant whose elements are known the ids of those of some traced tensors that it equals.

    By fingerprints; weights of modules, and tensors of one element, are left out.
    """
    graph, shapes = model.graph, model.shapes
    by_shape: dict[tuple[int | None, ...], list[TracedTensor]] = defaultdict(list)
    for tensor in {tensor.id: tensor for tensor in tensors if math.prod(tensor.shape) > 1}.values():
        if tensor.fingerprint:
            by_shape[tensor.shape].append(tensor)
    modules = model.traced.modules if model.traced else ()
    named = {full_name(module, weight) for module in modules for weight in module.weights}
    wanted = [v for v, t in graph.initializers.items() if tuple(t.dims) in by_shape and t.name not in named]
    wanted += [v for v in graph.constant if (shape := shapes[v]) and shape.dims in by_shape]
    arrays = constant_arrays(model.proto, graph, model.weights, shapes, wanted)
    summaries = {value: (array.shape, fingerprint(array)) for value, array in arrays.items()}
    return {
        value: {t.id for t in by_shape[shape] if t.fingerprint and same_fingerprint(summary, t.fingerprint)}
        for value, (shape, summary) in summaries.items()
        if summary
    }
