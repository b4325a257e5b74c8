"""Values of a graph's constants: initializers, and what is computed from them alone."""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection

import onnx
from onnx import GraphProto, ModelProto, SparseTensorProto, TensorProto, ValueInfoProto

from mxtools.files.limits import DENSE
from mxtools.files.weights import WeightStore
from mxtools.graph.fingerprints import NUMERIC
from mxtools.graph.functions import model_nodes
from mxtools.graph.index import Graph, bodies
from mxtools.graph.shapes import Array, Shapes
from mxtools.graph.walk import nodes_behind

LARGEST = 1 << 22
"""Constants with more elements are left out: those that callers look for are shapes, indices and small weights."""


def constant_arrays(
    model: ModelProto, graph: Graph, weights: WeightStore, shapes: Shapes, wanted: Collection[int]
) -> dict[int, Array]:
    """Return the arrays of those `wanted` constants of the main graph that take little work, by value.

    ONNX's reference evaluator runs the nodes that compute a wanted constant, if all of them are ONNX's own operators
    without bodies, and their tensors have known and small sizes. So no graph can make this run long or take much
    memory.
    """
    found = {v: weights.array(t) for v in wanted if (t := graph.initializers.get(v)) is not None and _is_small(t)}
    simple = _simple_constants(graph, shapes) if len(found) < len(wanted) else set[int]()
    computed = [v for v in wanted if v in simple]
    if computed:
        nodes = nodes_behind(graph, computed, until=lambda v: v not in simple)
        found.update(_evaluated(model, graph, weights, sorted(nodes), computed))
    return found


def _simple_constants(graph: Graph, shapes: Shapes) -> set[int]:
    """Return the values that ONNX's own operators compute from small initializers alone, with small results only."""
    stored = {v for v, tensor in graph.initializers.items() if _is_small(tensor)}
    simple: set[int] = set()
    for node, proto in enumerate(graph.nodes):
        operator = graph.operators[node]
        is_plain = operator.is_onnx and not operator.is_random and not any(bodies(proto))
        if is_plain and all(v in stored or v in simple for v in graph.reads[node]):
            results = [shapes[v] for v in graph.writes[node]]
            if all(s and s.kind in NUMERIC and s.count is not None and s.count <= LARGEST for s in results):
                simple.update(graph.writes[node])
    return simple


def _is_small(tensor: TensorProto) -> bool:
    return tensor.data_type != TensorProto.STRING and math.prod(tensor.dims) <= LARGEST


def _evaluated(
    model: ModelProto,
    graph: Graph,
    weights: WeightStore,
    nodes: list[int],
    wanted: list[int],
) -> dict[int, Array]:
    """Return the `wanted` values as a run of some nodes computes them; none if the evaluator cannot run the nodes."""
    import numpy as np

    needed = {v: graph.initializers[v] for n in nodes for v in graph.reads[n] if v in graph.initializers}
    from onnx.reference import ReferenceEvaluator

    part = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    part.graph.CopyFrom(
        GraphProto(
            name="constants",
            node=[graph.nodes[n] for n in nodes],
            initializer=[onnx.numpy_helper.from_array(weights.array(t), t.name) for t in needed.values()],
        )
    )
    names = [graph.names[v] for v in wanted]
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            part.graph.output.extend(ValueInfoProto(name=name) for name in names)
            return dict(zip(wanted, map(np.asarray, ReferenceEvaluator(part).run(names, {})), strict=True))
    except Exception:  # the evaluator runs numpy on whatever is in a file, and can raise anything
        return {}


def densified(tensor: SparseTensorProto, weights: WeightStore) -> Array:
    """Return a sparse tensor as a dense array; its indices are linear, or one for each axis."""
    import numpy as np

    values, indices = weights.array(tensor.values), weights.array(tensor.indices)
    DENSE.check(math.prod(tensor.dims) * values.itemsize, f"the sparse tensor {tensor.values.name!r} made dense")
    dense = np.zeros(tuple(tensor.dims), values.dtype)
    if indices.ndim == 1:
        dense.reshape(-1)[indices] = values
    else:
        dense[tuple(indices.T)] = values
    return dense


def make_dense(model: ModelProto, weights: WeightStore) -> None:
    """Replace the sparse initializers of a model's graphs by dense ones, in place."""
    for graph in (model.graph, *(body for node in model_nodes(model) for body in bodies(node))):
        for sparse in graph.sparse_initializer:
            graph.initializer.append(onnx.numpy_helper.from_array(densified(sparse, weights), sparse.values.name))
        del graph.sparse_initializer[:]
