"""What onnx-graphsurgeon is given of a model, and how its objects are tied to what they came from.

A model is imported twice: once to be edited, once to know later what was not. What graphsurgeon cannot hold is left
out of both, and is put back by `mxtools.surgeon.three_way_merge`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto
from onnx_graphsurgeon.ir.tensor import LazyValues, SparseValues
from onnx_graphsurgeon.logger import G_LOGGER

from mxtools.files.weights import WeightStore
from mxtools.graph.index import bodies
from mxtools.graph.shapes import Array

_HELD = frozenset(
    {
        AttributeProto.FLOAT,
        AttributeProto.INT,
        AttributeProto.STRING,
        AttributeProto.TENSOR,
        AttributeProto.GRAPH,
        AttributeProto.FLOATS,
        AttributeProto.INTS,
        AttributeProto.STRINGS,
    }
)
"""The types of attributes that graphsurgeon has."""


@dataclass(frozen=True)
class Tie:
    """A graph, function or node that was given away, its twin that was not, and the message that both came from."""

    given: Any
    before: Any
    proto: Any


class Stored(LazyValues):  # type: ignore[misc]
    """The values of a dense tensor, which stay where they lie until they are read."""

    def __init__(self, lazy: LazyValues, weights: WeightStore) -> None:
        """Take over what graphsurgeon imported."""
        self.origin: TensorProto = lazy.tensor
        self.shape, self.dtype, self.nbytes = lazy.shape, lazy.dtype, lazy.nbytes
        self._weights = weights

    @property
    def tensor(self) -> TensorProto:
        """A copy that holds its bytes, for graphsurgeon's exporter, which renames what it gets."""
        copy = TensorProto()
        copy.CopyFrom(self._weights.inline(self.origin))
        return copy

    def load(self) -> Array:
        """Give the values, writable."""
        return np.array(self._weights.array(self.origin))


class StoredSparse(SparseValues):  # type: ignore[misc]
    """The values of a sparse tensor, in whichever field they lie; graphsurgeon's own are zero for raw data."""

    def __init__(self, lazy: SparseValues, weights: WeightStore) -> None:
        """Take over what graphsurgeon imported."""
        self.tensor: SparseTensorProto = lazy.tensor
        self.shape, self.dtype, self.nbytes = lazy.shape, lazy.dtype, lazy.nbytes
        self._weights = weights

    def load(self) -> Array:
        """Give the values as a dense array."""
        return densified(self.tensor, self._weights)


class Surgery:
    """A model on the table: `graph` is for editing, `before` its twin, `functions` those given away."""

    def __init__(self, model: ModelProto, weights: WeightStore) -> None:
        """Import a model; raises what graphsurgeon raises."""
        self.model, self.weights = model, weights
        with G_LOGGER.suppress(G_LOGGER.CRITICAL + 1):
            self.graph, self.before = _imported(model), _imported(model)
        self.functions = list(self.graph.functions)
        self._ties: dict[int, Tie] = {}
        self._tie(self.graph, self.before, model.graph)
        for given, before, function in zip(self.functions, self.before.functions, model.functions, strict=True):
            self._tie(given, before, function)

    def tie(self, thing: object) -> Tie | None:
        """Give the tie of a graph, function or node; None for a new one."""
        return self._ties.get(id(thing))

    def _tie(self, given: gs.Graph, before: gs.Graph, proto: GraphProto | FunctionProto) -> None:
        """Tie a graph, its nodes and their bodies, and let its constants read from the store."""
        self._ties[id(given)] = Tie(given, before, proto)
        for tensor in (*given.outputs, *vars(given).get("attrs", {}).values()):
            self._store(tensor)
        for node, twin, message in zip(given.nodes, before.nodes, proto.node, strict=True):
            self._ties[id(node)] = Tie(node, twin, message)
            for tensor in (*node.inputs, *node.attrs.values()):
                self._store(tensor)
            for attribute in message.attribute:
                body = node.attrs.get(attribute.name)
                if isinstance(body, gs.Graph):
                    self._tie(body, twin.attrs[attribute.name], attribute.g)

    def _store(self, value: object) -> None:
        if isinstance(value, gs.Constant) and not isinstance(value._values, (Stored, StoredSparse)):
            kind = StoredSparse if isinstance(value._values, SparseValues) else Stored
            value.values = kind(value._values, self.weights)
            value.data_location = None


def densified(tensor: SparseTensorProto, weights: WeightStore) -> Array:
    """Give a sparse tensor as a dense array; its indices are linear, or one for each axis."""
    values, indices = weights.array(tensor.values), weights.array(tensor.indices)
    dense = np.zeros(tuple(tensor.dims), values.dtype)
    if indices.ndim == 1:
        dense.reshape(-1)[indices] = values
    else:
        dense[tuple(indices.T)] = values
    return dense


def _imported(model: ModelProto) -> gs.Graph:
    shown = ModelProto()
    shown.CopyFrom(model)
    for node in _all_nodes(shown):
        for index in range(len(node.attribute) - 1, -1, -1):
            if not _is_held(node.attribute[index]):
                del node.attribute[index]
    return gs.import_onnx(shown)


def _all_nodes(model: ModelProto) -> Iterator[NodeProto]:
    open_: list[NodeProto] = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    while open_:
        node = open_.pop()
        yield node
        open_.extend(inner for body in bodies(node) for inner in body.node)


def _is_held(attribute: AttributeProto) -> bool:
    """Tell whether graphsurgeon can import an attribute."""
    try:
        for text in (attribute.s, *attribute.strings):
            text.decode()
    except UnicodeDecodeError:
        return False
    return attribute.type in _HELD


def constants(graph: gs.Graph) -> dict[str, gs.Constant]:
    """Give the constants that a graph and its bodies read or return, by name."""
    found = own_constants(graph)
    for body in graph.subgraphs():
        found |= constants(body)
    return found


def own_constants(graph: gs.Graph) -> dict[str, gs.Constant]:
    """Give the constants that the nodes of a graph itself read, and those that it returns, by name."""
    read = (tensor for node in graph.nodes for tensor in node.inputs)
    return {t.name: t for t in (*read, *graph.outputs) if isinstance(t, gs.Constant)}
