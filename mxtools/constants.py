"""Values of a graph's constants: initializers, and what is computed from them alone."""

from __future__ import annotations

import warnings
from collections.abc import Collection

import numpy as np
from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto, numpy_helper

from mxtools.graph import NOWHERE, Graph
from mxtools.shapes import Array
from mxtools.sidecar import Fingerprint
from mxtools.weights import WeightStore

LARGEST = 1 << 22
"""Elements up to which a constant is looked at."""


def fingerprint(array: Array) -> Fingerprint | None:
    """Give count, minimum, maximum, sum and sum of squares of an array's finite elements; None for what has none."""
    if array.dtype.kind not in "fiub":
        return None
    finite = array.astype(np.float64).ravel()
    finite = finite[np.isfinite(finite)]
    if not finite.size:
        return (array.size, 0.0, 0.0, 0.0, 0.0)
    return (array.size, float(finite.min()), float(finite.max()), float(finite.sum()), float(finite @ finite))


def constant_arrays(
    model: ModelProto, graph: Graph, weights: WeightStore, constant: Collection[int], wanted: Collection[int]
) -> dict[int, Array]:
    """Give the arrays of some constants of the main graph, by value, those that can be had without much work.

    `constant` are the values that depend on no input; what computes a wanted one is run by ONNX's reference evaluator.
    """
    found = {v: weights.array(t) for v in wanted if (t := graph.initializers.get(v)) is not None and _is_small(t)}
    computed = [v for v in wanted if v not in graph.initializers]
    nodes: set[int] = set()
    open_ = list(computed)
    while open_:
        node = graph.producer[open_.pop()]
        if node != NOWHERE and node not in nodes:
            nodes.add(node)
            open_.extend(v for v in graph.needs[node] if v in constant)
    needed = {v: graph.initializers[v] for n in nodes for v in graph.needs[n] if v in graph.initializers}
    if computed and all(map(_is_small, needed.values())):
        found.update(_evaluated(model, graph, weights, sorted(nodes), needed, computed))
    return found


def _is_small(tensor: TensorProto) -> bool:
    return int(np.prod(tensor.dims, dtype=np.float64)) <= LARGEST


def _evaluated(
    model: ModelProto,
    graph: Graph,
    weights: WeightStore,
    nodes: list[int],
    needed: dict[int, TensorProto],
    wanted: list[int],
) -> dict[int, Array]:
    """Run some nodes; nothing is given where the evaluator cannot."""
    from onnx.reference import ReferenceEvaluator

    part = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    part.graph.CopyFrom(
        GraphProto(
            name="constants",
            node=[graph.nodes[n] for n in nodes],
            initializer=[numpy_helper.from_array(weights.array(t), t.name) for t in needed.values()],
        )
    )
    names = [graph.names[v] for v in wanted]
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            part.graph.output.extend(ValueInfoProto(name=name) for name in names)
            return dict(zip(wanted, map(np.asarray, ReferenceEvaluator(part).run(names, {})), strict=True))
    except Exception:
        return {}
