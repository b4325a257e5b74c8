"""Values of a graph's constants: initializers, and what is computed from them alone."""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection

import numpy as np
from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto, numpy_helper

from mxtools.files.weights import WeightStore
from mxtools.graph.fingerprints import NUMERIC
from mxtools.graph.index import Graph, bodies
from mxtools.graph.shapes import Array, Shapes
from mxtools.graph.walk import nodes_behind

LARGEST = 1 << 22
"""Elements up to which a constant is looked at."""


def constant_arrays(
    model: ModelProto, graph: Graph, weights: WeightStore, shapes: Shapes, wanted: Collection[int]
) -> dict[int, Array]:
    """Give the arrays of some constants of the main graph, by value, those that can be had without much work.

    What computes a wanted one is run by ONNX's reference evaluator, if it is made of standard operators without bodies
    and of tensors of known, small sizes, so that no graph can make it run long or take much memory.
    """
    found = {v: weights.array(t) for v in wanted if (t := graph.initializers.get(v)) is not None and _is_small(t)}
    simple = _simple(graph, shapes) if len(found) < len(wanted) else set[int]()
    computed = [v for v in wanted if v in simple]
    if computed:
        nodes = nodes_behind(graph, computed, until=lambda v: v not in simple)
        found.update(_evaluated(model, graph, weights, sorted(nodes), computed))
    return found


def _simple(graph: Graph, shapes: Shapes) -> set[int]:
    """Give the values that standard operators compute from small initializers alone, in small steps."""
    known = {v for v, tensor in graph.initializers.items() if _is_small(tensor)}
    found: set[int] = set()
    for node, proto in enumerate(graph.nodes):
        operator = graph.operators[node]
        plain = operator.is_onnx and not operator.is_random and not any(bodies(proto))
        if plain and all(v in known or v in found for v in graph.reads[node]):
            made = [shapes[v] for v in graph.writes[node]]
            if all(s and s.kind in NUMERIC and s.count is not None and s.count <= LARGEST for s in made):
                found.update(graph.writes[node])
    return found


def _is_small(tensor: TensorProto) -> bool:
    return tensor.data_type != TensorProto.STRING and math.prod(tensor.dims) <= LARGEST


def _evaluated(
    model: ModelProto,
    graph: Graph,
    weights: WeightStore,
    nodes: list[int],
    wanted: list[int],
) -> dict[int, Array]:
    """Run some nodes; nothing is given where the evaluator cannot."""
    needed = {v: graph.initializers[v] for n in nodes for v in graph.reads[n] if v in graph.initializers}
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
    except Exception:  # the evaluator runs numpy on whatever a file holds, and can raise anything
        return {}
