"""The graph index: who makes and who reads each value, over the main graph, nested bodies and functions, in one pass.

Nodes and values are numbered. Nodes come in list order, but the nodes of a body (of If, Loop, Scan …) come before the
node that holds it, so that the numbering is topological wherever the file is. A value is one name in one graph: the
same name in two bodies is two values. O(nodes + edges) in time and memory; weights are not touched.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property

from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto

NOWHERE = -1

_WITH_BODY = (AttributeProto.GRAPH, AttributeProto.GRAPHS)


class Names(dict[str, int]):
    """The values of one graph by name; those of the graph around it are known in it too."""

    def __init__(self, around: Names | None = None) -> None:
        """Begin without any."""
        super().__init__()
        self.around = around


def bodies(node: NodeProto) -> Iterator[GraphProto]:
    """Give the graphs that a node holds in its attributes."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == AttributeProto.GRAPHS:
            yield from attribute.graphs


class Graph:
    """The index of one model. It does not follow later changes of the model.

    Attributes, by node: `nodes`; `reads` and `writes`, the values of its inputs and outputs, empty ones left out, what
    the bodies of a node return counted as read by it; `owner`, the node whose body it is in, or NOWHERE; `region`, 0 in
    the main graph, i + 1 in the i-th function. Attributes, by value: `names`; `producer`, a node or NOWHERE; `readers`,
    the nodes that read it, each once for each reading; `home`, the node whose body it belongs to, or NOWHERE. Besides:
    `inputs` and `outputs`, the main graph's; `by_name`, its values by name; `initializers`, value to tensor, of all
    graphs; `sites`, region of a function to the nodes that call it.
    """

    def __init__(self, model: ModelProto) -> None:
        """Index a model; the model must outlive the index."""
        self.nodes: list[NodeProto] = []
        self.reads: list[tuple[int, ...]] = []
        self.writes: list[tuple[int, ...]] = []
        self.owner: list[int] = []
        self.region: list[int] = []
        self.names: list[str] = []
        self.producer: list[int] = []
        self.readers: list[list[int]] = []
        self.home: list[int] = []
        self.initializers: dict[int, TensorProto] = {}
        self.by_name = main = Names()
        self.outputs = self._graph(model.graph, main, 0)[0]
        self.inputs = [main[i.name] for i in model.graph.input]
        functions: dict[tuple[str, str, str], int] = {}
        for region, function in enumerate(model.functions, 1):
            functions[function.domain, function.name, function.overload] = region
            self._function(function, region)
        self.sites: dict[int, list[int]] = defaultdict(list)
        for node, proto in enumerate(self.nodes if functions else ()):
            region_called = functions.get((proto.domain, proto.op_type, proto.overload))
            if region_called is not None:
                self.sites[region_called].append(node)

    def sources(self, node: int) -> Iterator[int]:
        """Give the nodes that make what a node reads, each once for each reading."""
        for value in self.reads[node]:
            if self.producer[value] != NOWHERE:
                yield self.producer[value]

    def targets(self, node: int) -> Iterator[int]:
        """Give the nodes that read what a node makes, each once for each reading."""
        for value in self.writes[node]:
            yield from self.readers[value]

    def top(self, node: int) -> int:
        """Give the node of the main graph, or of a function's, that a node is, or that holds it at some depth."""
        while self.owner[node] != NOWHERE:
            node = self.owner[node]
        return node

    @cached_property
    def needs(self) -> list[tuple[int, ...]]:
        """What each node reads, each value once; of a holder of bodies also what these capture, and nothing inner."""
        needs = [dict.fromkeys(reads) for reads in self.reads]
        for node, owner in enumerate(self.owner):
            if owner != NOWHERE:
                needs[self.top(node)].update(dict.fromkeys(self.reads[node]))
        inner = {v for v, home in enumerate(self.home) if home != NOWHERE}
        return [
            tuple(values) if owner != NOWHERE or not inner else tuple(v for v in values if v not in inner)
            for values, owner in zip(needs, self.owner, strict=True)
        ]

    def _graph(self, graph: GraphProto, names: Names, region: int) -> tuple[list[int], list[int], list[int]]:
        """Index one graph; give the values that it returns, its own nodes and its own values."""
        own = [self._value(names, i.name) for i in graph.input]
        for tensor in graph.initializer:
            value = self._value(names, tensor.name)
            self.initializers[value] = tensor
            own.append(value)
        for sparse in graph.sparse_initializer:
            value = self._value(names, sparse.values.name)
            self.initializers[value] = sparse.values
            own.append(value)
        nodes, made = self._nodes(graph.node, names, region)
        return [self._lookup(names, o.name) for o in graph.output], nodes, own + made

    def _function(self, function: FunctionProto, region: int) -> None:
        names = Names()
        for name in function.input:
            self._value(names, name)
        self._nodes(function.node, names, region)

    def _nodes(self, nodes: Sequence[NodeProto], names: Names, region: int) -> tuple[list[int], list[int]]:
        indices: list[int] = []
        made: list[int] = []
        for node in nodes:
            reads = [self._lookup(names, name) for name in node.input if name]
            inner: list[int] = []
            if node.attribute and any(a.type in _WITH_BODY for a in node.attribute):
                reads += self._bodies(node, names, region, inner)
            index = len(self.nodes)
            for value in reads:
                self.readers[value].append(index)
            writes = [self._value(names, name) for name in node.output if name]
            for value in writes:
                self.producer[value] = index
            self.nodes.append(node)
            self.reads.append(tuple(reads))
            self.writes.append(tuple(writes))
            self.owner.append(NOWHERE)
            self.region.append(region)
            for i in inner:
                self.owner[i] = index
            indices.append(index)
            made += writes
        return indices, made

    def _bodies(self, node: NodeProto, names: Names, region: int, inner: list[int]) -> list[int]:
        """Index the bodies of a node; give what they return, and add their nodes to `inner`."""
        returned: list[int] = []
        home: list[int] = []
        for body in bodies(node):
            results, nodes, values = self._graph(body, Names(names), region)
            returned += results
            inner += nodes
            home += values
        holder = len(self.nodes)
        for value in home:
            self.home[value] = holder
        return returned

    def _lookup(self, names: Names, name: str) -> int:
        """Give the value that a name means, here or around."""
        at: Names | None = names
        while at is not None:
            value = at.get(name)
            if value is not None:
                return value
            at = at.around
        return self._value(names, name)

    def _value(self, names: Names, name: str) -> int:
        """Give the value of a name that is made here; a name that is made twice is two values."""
        value = names.get(name)
        if value is None or self.producer[value] != NOWHERE:
            value = names[name] = len(self.names)
            self.names.append(name)
            self.producer.append(NOWHERE)
            self.readers.append([])
            self.home.append(NOWHERE)
        return value


RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
)
"""Operators of ONNX whose results differ from run to run, so that a copy is not the same."""


def constants(graph: Graph, without: Collection[int] = ()) -> set[int]:
    """Give the values of nodes that depend on no input, of the model, a function, or a body, nor on nodes `without`."""
    found: set[int] = set()
    varying = {graph.top(node) for node, proto in enumerate(graph.nodes) if proto.op_type in RANDOM}
    for node in range(len(graph.nodes)):
        known = all(value in found or value in graph.initializers for value in graph.needs[node])
        if known and node not in without and graph.top(node) not in varying:
            found.update(graph.writes[node])
    return found
