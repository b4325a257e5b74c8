"""The structure of some nodes: what they compute from what, whatever nodes and values are called.

Modules of equal structure can share one function. Two calls, and how their nodes read with values by number:

    layer.0   MatMul(x, layer.0.w) -> m    Add(m, b) -> y       MatMul(in0, in1) -> 0   Add(0, in2) -> 1   gives 1
    layer.1   MatMul(y, layer.1.w) -> m1   Add(m1, b) -> z      the same

What attributes hold is no part of it: where it differs, the function has attributes of its own. What bodies hold is.
"""

from __future__ import annotations

import hashlib
from collections import ChainMap
from collections.abc import Iterable, Iterator

from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto

from mxtools.graph.index import bodies
from mxtools.graph.operators import operator_key

GRAPHS = frozenset({AttributeProto.GRAPH, AttributeProto.GRAPHS})

_Known = ChainMap[str, int]


class Structure:
    """The structure of nodes in an order that depends on it alone.

    Attributes: `key`, equal for equal structures; `inputs`, the names of what the nodes read from elsewhere, in the
    order in which they first read it.
    """

    def __init__(self, nodes: Iterable[NodeProto], outputs: Iterable[str]) -> None:
        """Read nodes, and which of their results others read."""
        self._digest = hashlib.sha256()
        self._inputs: dict[str, int] = {}
        self._made = 0
        self._names: dict[str, int] = {}
        known: _Known = ChainMap()
        self._read_nodes(nodes, known)
        self._say([known[name] for name in outputs])
        self.key = self._digest.hexdigest()
        self.inputs = list(self._inputs)

    def _say(self, *what: object) -> None:
        self._digest.update(repr(what).encode())

    def _number(self, name: str, known: _Known) -> int:
        """Return the number of a value: from 0 of what is made inside, below 0 of what comes from elsewhere."""
        if name in known:
            return known[name]
        return -1 - self._inputs.setdefault(name, len(self._inputs))

    def _make(self, name: str, known: _Known) -> int:
        known[name] = self._made
        self._made += 1
        self._say(self._names.setdefault(name, len(self._names)))  # so that equal ones can be renamed one by one
        return known[name]

    def _read_nodes(self, nodes: Iterable[NodeProto], known: _Known) -> None:
        for node in nodes:
            read = [self._number(name, known) if name else None for name in node.input]
            self._say(operator_key(node), read, [d.SerializeToString() for d in node.device_configurations])
            for attribute in node.attribute:
                self._say(attribute.name, attribute.type, attribute.ref_attr_name)
            for body in bodies(node):
                self._read_body(body, known.new_child())
            self._say([self._make(name, known) if name else None for name in node.output])

    def _read_body(self, body: GraphProto, known: _Known) -> None:
        self._say("body", [(self._make(info.name, known), _type(info)) for info in body.input])
        self._say([(self._make(t.name, known), _stored(t)) for t in body.initializer])
        for sparse in body.sparse_initializer:
            self._say(self._make(sparse.values.name, known), _stored(sparse.values), _stored(sparse.indices))
            self._say(list(sparse.dims))
        self._read_nodes(body.node, known)
        self._say([(self._number(info.name, known), _type(info)) for info in body.output])
        self._say([(known.get(info.name), _type(info)) for info in body.value_info])
        self._say([note.SerializeToString() for note in body.quantization_annotation])


def _type(info: ValueInfoProto) -> bytes:
    return bytes(info.type.SerializeToString(deterministic=True))


def _stored(tensor: TensorProto) -> bytes:
    copy = TensorProto()
    copy.CopyFrom(tensor)
    copy.ClearField("name")
    return hashlib.sha256(copy.SerializeToString(deterministic=True)).digest()


def attributes_of(nodes: Iterable[NodeProto]) -> Iterator[AttributeProto]:
    """Yield the attributes of nodes and of those in their bodies, but for the bodies themselves.

    Nodes of equal structure give attributes of the same names and types, in the same order.
    """
    for node in nodes:
        yield from (attribute for attribute in node.attribute if attribute.type not in GRAPHS)
        for body in bodies(node):
            yield from attributes_of(body.node)


def names_made(nodes: Iterable[NodeProto]) -> list[str]:
    """Return the names of all values that nodes and their bodies make or hold, each once, in an order of structure."""
    return list(dict.fromkeys(_names(nodes)))


def _names(nodes: Iterable[NodeProto]) -> Iterator[str]:
    for node in nodes:
        for body in bodies(node):
            yield from (info.name for info in body.input)
            yield from (tensor.name for tensor in body.initializer)
            yield from (sparse.values.name for sparse in body.sparse_initializer)
            yield from _names(body.node)
        yield from filter(None, node.output)
