"""The graph index: who makes and who reads each value, over the main graph, nested bodies and functions, in one pass.

Nodes and values are numbered. Nodes come in list order, but the nodes of a body (of If, Loop, Scan …) come before the
node that holds it, so that the numbering is topological wherever the file is. A value is one name in one graph: the
same name in two bodies is two values. O(nodes + edges) in time and memory; weights are not touched.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property

from onnx import (
    AttributeProto,
    FunctionProto,
    GraphProto,
    ModelProto,
    NodeProto,
    SparseTensorProto,
    TensorProto,
    ValueInfoProto,
)

from mxtools.graph.operators import Operator, OperatorKey, Operators, function_key, operator_key
from mxtools.graph.walk import NOWHERE as NOWHERE  # the graph's modules take it from here
from mxtools.graph.walk import reached

_WITH_BODY = (AttributeProto.GRAPH, AttributeProto.GRAPHS)


class Names(dict[str, int]):
    """The values of one graph by name; those of the graph around it are known in it too."""

    def __init__(self, around: Names | None = None) -> None:
        """Begin without any."""
        super().__init__()
        self.around = around


def graph_inputs(model: ModelProto) -> list[ValueInfoProto]:
    """Return a model's inputs that have to be given: initializers that are inputs too have a value."""
    stored = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in stored]


def bodies(node: NodeProto) -> Iterator[GraphProto]:
    """Give the graphs that a node holds in its attributes."""
    yield from graphs_in(node.attribute)


def graphs_in(attributes: Iterable[AttributeProto]) -> Iterator[GraphProto]:
    """Give the graphs that some attributes hold."""
    for attribute in attributes:
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
    `inputs` and `outputs`, the main graph's; `by_name`, its values by name; `initializers` and `sparse`, value to
    tensor, of all graphs; `stored`, the values of both; `sites`, region of a function to the nodes that call it.
    """

    def __init__(self, model: ModelProto) -> None:
        """Index a model; the model must outlive the index."""
        self.nodes: list[NodeProto] = []
        self.reads: list[tuple[int, ...]] = []
        self.writes: list[tuple[int, ...]] = []
        self.region: list[int] = []
        self.names: list[str] = []
        self.producer: list[int] = []
        self._holders: dict[int, int] = {}
        self._homes: dict[int, int] = {}
        self.initializers: dict[int, TensorProto] = {}
        self.sparse: dict[int, SparseTensorProto] = {}
        self.by_name = main = Names()
        self.outputs = self._graph(model.graph, main, 0)
        self.inputs = [main[i.name] for i in model.graph.input]
        functions: dict[OperatorKey, int] = {}
        for region, function in enumerate(model.functions, 1):
            functions[function_key(function)] = region
            self._function(function, region)
        self._operators = Operators(model)
        self.stored = self.initializers.keys() | self.sparse.keys()
        self.owner = _filled(len(self.nodes), self._holders)
        self.home = _filled(len(self.names), self._homes)
        self.sites: dict[int, list[int]] = defaultdict(list)
        for node, proto in enumerate(self.nodes if functions else ()):
            region_called = functions.get(operator_key(proto))
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
    def readers(self) -> list[list[int]]:
        """The nodes that read each value, each once for each reading, in order."""
        readers: list[list[int]] = [[] for _ in self.names]
        for node, reads in enumerate(self.reads):
            for value in reads:
                readers[value].append(node)
        return readers

    @cached_property
    def main(self) -> list[int]:
        """The nodes of the main graph itself, in list order."""
        return [n for n, region in enumerate(self.region) if region == 0 and self.owner[n] == NOWHERE]

    @cached_property
    def needs(self) -> list[tuple[int, ...]]:
        """What each node reads; of a holder of bodies also what these capture, each value once, and nothing inner."""
        if not self._holders:
            return self.reads
        needs = [dict.fromkeys(reads) for reads in self.reads]
        for node in self._holders:
            needs[self.top(node)].update(dict.fromkeys(self.reads[node]))
        inner = {v for v, home in enumerate(self.home) if home != NOWHERE}
        return [
            tuple(values) if owner != NOWHERE else tuple(v for v in values if v not in inner)
            for values, owner in zip(needs, self.owner, strict=True)
        ]

    @cached_property
    def operators(self) -> list[Operator]:
        """What is known of each node's operator."""
        return self._operators.of_all(self.nodes, self.region)

    @cached_property
    def varying(self) -> set[int]:
        """The nodes, of the main graph and of functions, that are random, hold what is, or call it."""
        random = [self.top(node) for node, operator in enumerate(self.operators) if operator.is_random]
        return set(reached(random, lambda node: map(self.top, self.sites.get(self.region[node], ()))))

    @cached_property
    def constant(self) -> set[int]:
        """The values of nodes that depend on no input, of the model, a function, or a body."""
        return self.constants(())

    def constants(self, without: Collection[int]) -> set[int]:
        """Give the values of nodes that depend on no input of model, function or body, nor on nodes `without`."""
        found: set[int] = set()
        known = self.stored
        for node, needs in enumerate(self.needs):
            for value in needs:
                if value not in found and value not in known:
                    break
            else:
                if node not in without and self.top(node) not in self.varying:
                    found.update(self.writes[node])
        return found

    def shape_derived(self, constant: Collection[int]) -> set[int]:
        """Give the values of the main graph that depend on inputs only through shapes; `constant` depend on none."""
        found: set[int] = set()
        for node in self.main:
            asks = self.operators[node].reads_only_shape
            needs = [v for v in self.needs[node] if v not in self.stored and v not in constant]
            if needs and node not in self.varying and (asks or all(v in found for v in needs)):
                found.update(self.writes[node])
        return found

    def _graph(self, graph: GraphProto, names: Names, region: int) -> list[int]:
        """Index one graph; give the values that it returns."""
        for info in graph.input:
            self._value(names, info.name)
        for tensor in graph.initializer:
            self.initializers[self._value(names, tensor.name)] = tensor
        for sparse in graph.sparse_initializer:
            self.sparse[self._value(names, sparse.values.name)] = sparse
        self._nodes(graph.node, names, region)
        return [self._lookup(names, info.name) for info in graph.output]

    def _function(self, function: FunctionProto, region: int) -> None:
        names = Names()
        for name in function.input:
            self._value(names, name)
        self._nodes(function.node, names, region)

    def _nodes(self, nodes: Sequence[NodeProto], names: Names, region: int) -> None:
        known, made = names.get, names.setdefault
        all_nodes, add_reads, add_writes = self.nodes, self.reads.append, self.writes.append
        add_name, add_producer, count = self.names.append, self.producer.append, len(self.names)
        for node in nodes:
            inputs = node.input[:]  # a list: protobuf's own containers take twice as long to go through
            reads: tuple[int, ...] = tuple(map(known, inputs))  # type: ignore[arg-type]
            if None in reads:  # left out, or not of this graph
                reads = tuple([self._lookup(names, name) for name in inputs if name])
                count = len(self.names)
            if node.attribute and any(a.type in _WITH_BODY for a in node.attribute):
                reads += self._bodies(node, names, region)
                count = len(self.names)
            at = len(all_nodes)
            writes: tuple[int, ...] = ()
            for name in node.output[:]:
                if not name:
                    continue
                if made(name, count) == count:
                    add_name(name)
                    add_producer(at)
                    writes += (count,)
                else:
                    writes += (self._value(names, name, at),)
                count = len(self.names)
            all_nodes.append(node)
            add_reads(reads)
            add_writes(writes)
        self.region += [region] * (len(all_nodes) - len(self.region))

    def _bodies(self, node: NodeProto, names: Names, region: int) -> tuple[int, ...]:
        """Index the bodies of a node, which is the next to be numbered; give what they return."""
        first_node, first_value = len(self.nodes), len(self.names)
        returned = [value for body in bodies(node) for value in self._graph(body, Names(names), region)]
        holder = len(self.nodes)
        for inner in range(first_node, holder):
            self._holders.setdefault(inner, holder)
        for value in range(first_value, len(self.names)):
            self._homes.setdefault(value, holder)
        return tuple(returned)

    def _lookup(self, names: Names, name: str) -> int:
        """Give the value that a name means, here or around; one that nobody makes belongs nowhere."""
        at: Names | None = names
        while at is not None:
            value = at.get(name)
            if value is not None:
                return value
            at = at.around
        value = self._value(names, name)
        self._homes[value] = NOWHERE
        return value

    def _value(self, names: Names, name: str, producer: int = NOWHERE) -> int:
        """Give the value of a name that is made here, by a node or by none; a name that is made twice is two values."""
        value = names.get(name)
        if value is None or self.producer[value] != NOWHERE:
            value = names[name] = len(self.names)
            self.names.append(name)
            self.producer.append(producer)
        elif producer != NOWHERE:
            self.producer[value] = producer
            self._homes.pop(value, None)
        return value


def _filled(count: int, known: Mapping[int, int]) -> list[int]:
    """Give a list of so many numbers from those that are known; NOWHERE for the others."""
    found = [NOWHERE] * count
    for at, number in known.items():
        found[at] = number
    return found
