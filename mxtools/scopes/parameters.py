"""Which tensors in a graph are parameters of modules, and which only say how to compute.

Four nodes: RMSNorm as an exporter writes it, with a weight `w` of 64 elements:

    x ─ Pow(2.0) ─ ReduceMean([-1]) ─ … Div ─ Mul(w)        and eps, 1e-6

All four constants are stored in the same way, as initializers or in Constant nodes. `w` is a parameter. An axis, a
shape or an index is not: these are integers of 64 bits, or bools, and PyTorch has no parameters of these types. A
single number, such as the exponent and eps, is hardly ever a parameter. It is one if its name says so (a node of
`encoder.norm` reads `encoder.norm.bias`), or if the operator takes nothing but weights there, such as the bias of a
Conv. Integers of 32 bits are weights only if an operator on quantised values, or an unknown operator, reads them. What
an operator takes as a setting, such as the scales of a Resize, is not a parameter.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import cache

from onnx import SparseTensorProto, TensorProto

from mxtools.files.weights import bytes_of
from mxtools.graph.index import Graph
from mxtools.scopes.annotations import Annotations
from mxtools.scopes.hierarchy import ROOT_CALL
from mxtools.scopes.scope import contains, escape

Stored = TensorProto | SparseTensorProto

_NEVER = frozenset({TensorProto.INT64, TensorProto.UINT64, TensorProto.BOOL, TensorProto.STRING})
"""Element types that no parameter of PyTorch has."""
_WIDE = frozenset({TensorProto.INT32, TensorProto.UINT32})
"""Element types of indices mostly, and otherwise of biases of quantised operators or of packed weights."""
_CALL = re.compile(r"@\d+")


def stored_tensors(graph: Graph) -> dict[int, Stored]:
    """Return the tensors in a graph by value: initializers, and those of Constant nodes."""
    found: dict[int, Stored] = {**graph.initializers, **graph.sparse}
    for node, proto in enumerate(graph.nodes):
        if graph.operators[node].is_named("Constant"):
            for attribute in proto.attribute:
                if attribute.HasField("t") or attribute.HasField("sparse_tensor"):
                    tensor = attribute.t if attribute.HasField("t") else attribute.sparse_tensor
                    found.update(dict.fromkeys(graph.writes[node], tensor))
    return found


def stored_bytes(tensor: Stored) -> int:
    """Return the bytes that a tensor takes in the file; a sparse one takes those of its values and their places."""
    parts = (tensor,) if isinstance(tensor, TensorProto) else (tensor.values, tensor.indices)
    return sum(map(bytes_of, parts))


def parameter_sizes(annotations: Annotations, stored: Mapping[int, Stored]) -> dict[int, int]:
    """Return by value the number of elements of those stored tensors that are parameters.

    Of bytes that hold several numbers each, as of four bits, the numbers count.
    """
    graph = annotations.graph
    sizes = {value: _packed(graph, value, tensor) or math.prod(tensor.dims) for value, tensor in stored.items()}
    return {v: size for v, size in sizes.items() if _is_parameter(annotations, graph, v, stored[v], size)}


def _packed(graph: Graph, value: int, tensor: Stored) -> int | None:
    """Return how many numbers the bytes of a stored tensor hold for a node that reads them so, None without any."""
    if not isinstance(tensor, TensorProto) or tensor.data_type != TensorProto.UINT8:
        return None
    counts = (
        count(graph.nodes[node], place)
        for node in graph.readers[value]
        if (count := graph.operators[node].packed)
        for place in _places(graph, value, node)
    )
    return next(filter(None, counts), None)


def _is_parameter(annotations: Annotations, graph: Graph, value: int, tensor: Stored, size: int) -> bool:
    element = tensor.data_type if isinstance(tensor, TensorProto) else tensor.values.data_type
    readers = graph.readers[value]
    if element in _NEVER or not readers:
        return False
    operators = [graph.operators[node] for node in readers]
    if element in _WIDE and not any(o.quantises or o.dequantises or o.schema is None for o in operators):
        return False
    if size == 1:
        named = (_is_named_after(annotations, graph.names[value], node) for node in readers)
        return any(named) or any(graph.operators[n].weights & set(_places(graph, value, n)) for n in readers)
    return not all(graph.operators[n].settings.issuperset(_places(graph, value, n)) for n in readers)


def _is_named_after(annotations: Annotations, name: str, node: int) -> bool:
    """Return whether a name, like those of a state dict, belongs to a node's module, or to one around or inside it."""
    module, dot, own = name.rpartition(".")
    call = annotations.call[node]
    if not dot or own.isdecimal() or call in (None, ROOT_CALL):
        return False
    path, scope = _scope(module), _CALL.sub("", annotations.hierarchy.scopes[call])
    return contains(path, scope) or contains(scope, path)


@cache
def _scope(path: str) -> str:
    return ".".join(map(escape, path.split(".")))


def _places(graph: Graph, value: int, node: int) -> list[int]:
    """Return the places at which a value is among a node's inputs."""
    return [place for place, read in enumerate(graph.nodes[node].input) if read == graph.names[value]]
