"""Import a model into onnx-graphsurgeon, and remember from which message each object came.

The model is imported twice: one graph is edited, and its twin stays as it was, so comparing the two later shows the
edits. What graphsurgeon cannot represent is left out of both; `mxtools.surgeon.three_way_merge` puts it back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, SparseTensorProto, TensorProto
from onnx_graphsurgeon.ir.tensor import LazyValues, SparseValues
from onnx_graphsurgeon.logger import G_LOGGER

from mxtools.files.weights import WeightStore
from mxtools.graph.constants import densified
from mxtools.graph.functions import model_nodes
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
"""The types of attributes that graphsurgeon knows."""


@dataclass(frozen=True)
class Tie:
    """A graph, function or node that can be edited, its unedited twin, and the message from which both came."""

    edited: Any
    before: Any
    proto: Any


class Stored(LazyValues):  # type: ignore[misc]
    """The values of a dense tensor, which stay in their file until something reads them."""

    def __init__(self, lazy: LazyValues, weights: WeightStore) -> None:
        """Take over what graphsurgeon imported."""
        self.origin: TensorProto = lazy.tensor
        self.shape, self.dtype, self.nbytes = lazy.shape, lazy.dtype, lazy.nbytes
        self._weights = weights

    @property
    def tensor(self) -> TensorProto:
        """A copy with its bytes, for graphsurgeon's exporter, which renames what it gets."""
        copy = TensorProto()
        copy.CopyFrom(self._weights.inline(self.origin))
        return copy

    def load(self) -> Array:
        """Return the values as an array that can be written to."""
        return np.array(self._weights.array(self.origin))


class StoredSparse(SparseValues):  # type: ignore[misc]
    """The values of a sparse tensor, in whichever field they are; graphsurgeon's own class reads raw data as zeros."""

    def __init__(self, lazy: SparseValues, weights: WeightStore) -> None:
        """Take over what graphsurgeon imported."""
        self.tensor: SparseTensorProto = lazy.tensor
        self.shape, self.dtype, self.nbytes = lazy.shape, lazy.dtype, lazy.nbytes
        self._weights = weights

    def load(self) -> Array:
        """Return the values as a dense array."""
        return densified(self.tensor, self._weights)


class Surgery:
    """A model that is being edited: `graph` can be edited, with its `functions`; `before` is its unedited twin."""

    def __init__(self, model: ModelProto, weights: WeightStore) -> None:
        """Import a model; raises what graphsurgeon raises."""
        self.model, self.weights = model, weights
        with G_LOGGER.suppress(G_LOGGER.CRITICAL + 1):
            self.graph, self.before = _imported(model), _imported(model)
        self.functions = list(self.graph.functions)
        self._ties: dict[int, Tie] = {}
        self._tie(self.graph, self.before, model.graph)
        for edited, before, function in zip(self.functions, self.before.functions, model.functions, strict=True):
            self._tie(edited, before, function)

    def tie(self, edited: object) -> Tie | None:
        """Return what a graph, function or node came from; None for a new one."""
        return self._ties.get(id(edited))

    def _tie(self, edited: gs.Graph, before: gs.Graph, proto: GraphProto | FunctionProto) -> None:
        """Tie a graph, its nodes and their bodies to their twins, and let its constants read from the weight store."""
        self._ties[id(edited)] = Tie(edited, before, proto)
        for tensor in (*edited.outputs, *vars(edited).get("attrs", {}).values()):
            self._store(tensor)
        for node, twin, message in zip(edited.nodes, before.nodes, proto.node, strict=True):
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


def _imported(model: ModelProto) -> gs.Graph:
    """Import a model without the attributes that graphsurgeon does not know."""
    shown = ModelProto()
    shown.CopyFrom(model)
    for node in model_nodes(shown):
        for index in range(len(node.attribute) - 1, -1, -1):
            if not _is_held(node.attribute[index]):
                del node.attribute[index]
    return gs.import_onnx(shown)


def _is_held(attribute: AttributeProto) -> bool:
    """Return whether graphsurgeon can import an attribute: it knows the type, and the text is UTF-8."""
    try:
        for text in (attribute.s, *attribute.strings):
            text.decode()
    except UnicodeDecodeError:
        return False
    return attribute.type in _HELD


def constants(graph: gs.Graph) -> dict[str, gs.Constant]:
    """Return the constants that a graph and its bodies read or return, by name."""
    found = own_constants(graph)
    for body in graph.subgraphs():
        found |= constants(body)
    return found


def own_constants(graph: gs.Graph) -> dict[str, gs.Constant]:
    """Return the constants that the nodes of a graph itself read, or that it returns, by name."""
    read = (tensor for node in graph.nodes for tensor in node.inputs)
    return {t.name: t for t in (*read, *graph.outputs) if isinstance(t, gs.Constant)}
