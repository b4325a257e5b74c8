"""The graph index: which node makes and which nodes read each value, in the main graph, bodies and functions.

Nodes and values have numbers. Nodes are numbered in list order, except that the nodes of a body (of If, Loop, Scan …)
come before the node that holds it. So the numbers are in topological order, as the list is. ONNX forbids a list that is
not in this order, but tools that append their nodes write some; then the nodes are numbered as if the list were sorted.
A value is one name in one graph: the same name in two bodies is two values. Building the index is one pass, O(nodes +
edges) in time and memory; it does not touch weights.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from graphlib import CycleError
from math import prod

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

from mxtools.errors import InputError
from mxtools.graph.operators import Operator, OperatorKey, Operators, function_key, is_same_operator, operator_key
from mxtools.graph.order import bodies as bodies
from mxtools.graph.order import graphs_in as graphs_in
from mxtools.graph.order import in_order_of_flow
from mxtools.graph.walk import NOWHERE as NOWHERE  # modules of this room and others import it from here
from mxtools.graph.walk import reached

_FRACTIONS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
_WITH_BODY = (AttributeProto.GRAPH, AttributeProto.GRAPHS)


class ValueNames(dict[str, int]):
    """The numbers of the values of one graph, by name; for a body, `outer` has those of the graph around it."""

    def __init__(self, outer: ValueNames | None = None) -> None:
        """Begin without any values."""
        super().__init__()
        self.outer = outer


def graph_inputs(model: ModelProto) -> list[ValueInfoProto]:
    """Return the inputs that a model needs to run; not those that are also initializers and so have a value already."""
    stored = {tensor.name for tensor in model.graph.initializer}
    stored.update(sparse.values.name for sparse in model.graph.sparse_initializer)
    return [value for value in model.graph.input if value.name not in stored]


class Graph:
    """The index of one model. It does not follow later changes of the model.

    Attributes by node: `nodes`, the protos; `reads` and `writes`, the values of its inputs and outputs without omitted
    ones (a node with bodies also reads what these return); `owner`, the node whose body it is in, or NOWHERE; `region`,
    0 in the main graph, i + 1 in the i-th function.

    Attributes by value: `names`; `producer`, the node that makes it, or NOWHERE; `readers`, the nodes that read it,
    once for each reading; `home`, the node whose body it belongs to, or NOWHERE.

    Others: `inputs` and `outputs`, values of the main graph; `by_name`, its values by name; `initializers` and
    `sparse`, the tensors of all graphs by value; `stored`, the values of both; `sites`, for each region of a function
    the nodes that call it; `misplaced`, the first node in the file's list that comes before the maker of something that
    it reads, None if there is none.
    """

    def __init__(self, model: ModelProto) -> None:
        """Index a model; the model must outlive the index."""
        self._ordered = False
        self._read(model)
        late = self._first_late()
        self.misplaced = late
        if late is not None:
            node = self.nodes[late]
            try:
                self._ordered = True
                self._read(model)
            except CycleError:
                self._ordered = False
                self._read(model)
            self.misplaced = next(number for number, proto in enumerate(self.nodes) if proto is node)

    def _read(self, model: ModelProto) -> None:
        """Index a model, its nodes in list order or, if `_ordered` is set, each after the makers of what it reads."""
        self.nodes: list[NodeProto] = []
        self.reads: list[tuple[int, ...]] = []
        self.writes: list[tuple[int, ...]] = []
        self.region: list[int] = []
        self.names: list[str] = []
        self.producer: list[int] = []
        self._owners: dict[int, int] = {}
        self._homes: dict[int, int] = {}
        self.initializers: dict[int, TensorProto] = {}
        self.sparse: dict[int, SparseTensorProto] = {}
        self._late: list[int] = []
        self.by_name = main = ValueNames()
        self.outputs = self._add_graph(model.graph, main, 0)
        self.inputs = [main[i.name] for i in model.graph.input]
        functions: dict[OperatorKey, int] = {}
        for region, function in enumerate(model.functions, 1):
            functions[function_key(function)] = region
            self._add_function(function, region)
        self._operators = Operators(model)
        self.stored = self.initializers.keys() | self.sparse.keys()
        self.owner = _filled(len(self.nodes), self._owners)
        self.home = _filled(len(self.names), self._homes)
        self.sites: dict[int, list[int]] = defaultdict(list)
        for node, proto in enumerate(self.nodes if functions else ()):
            region_called = functions.get(operator_key(proto))
            if region_called is not None:
                self.sites[region_called].append(node)

    def has_same_operator(self, node: int, other: Graph, twin: int) -> bool:
        """Return whether a node has the operator and attributes of one of another graph; defaults count as none."""
        return is_same_operator(self.nodes[node], other.nodes[twin], self.operators[node])

    def sources(self, node: int) -> Iterator[int]:
        """Yield the nodes that make what a node reads, once for each reading."""
        for value in self.reads[node]:
            if self.producer[value] != NOWHERE:
                yield self.producer[value]

    def targets(self, node: int) -> Iterator[int]:
        """Yield the nodes that read what a node makes, once for each reading."""
        for value in self.writes[node]:
            yield from self.readers[value]

    def top(self, node: int) -> int:
        """Return the node itself; if it is in a body, the node outside of all bodies that holds it."""
        while self.owner[node] != NOWHERE:
            node = self.owner[node]
        return node

    @cached_property
    def readers(self) -> list[list[int]]:
        """The nodes that read each value, once for each reading, in order."""
        readers: list[list[int]] = [[] for _ in self.names]
        for node, reads in enumerate(self.reads):
            for value in reads:
                readers[value].append(node)
        return readers

    def require_order(self) -> None:
        """Raise InputError if the nodes have no order: one reads a value that is computed from its own result."""
        if self.misplaced is not None and not self._ordered:
            node = self.nodes[self.misplaced]
            raise InputError(
                f"{node.op_type} {node.name!r} reads a value that is computed from its own result",
                "fix the program that made the file",
            )

    @cached_property
    def main(self) -> list[int]:
        """The nodes of the main graph without those in bodies, in list order."""
        return [n for n, region in enumerate(self.region) if region == 0 and self.owner[n] == NOWHERE]

    @cached_property
    def named(self) -> dict[str, list[int]]:
        """The nodes by what their names have before the last slash: `/encoder/layer.0` for `/encoder/layer.0/MatMul`.

        Of a name of several operations (`a/Relu;a/BiasAdd`), the first one counts. Names without a slash are left out.
        """
        found: dict[str, list[int]] = defaultdict(list)
        for node, proto in enumerate(self.nodes):
            before, slash, _ = proto.name.partition(";")[0].rpartition("/")
            if slash:
                found[before].append(node)
        return dict(found)

    @cached_property
    def needs(self) -> list[tuple[int, ...]]:
        """The values that each node needs, each once; a node with bodies also needs what these read from outside."""
        if not self._homes:
            return self.reads
        needs = [dict.fromkeys(reads) for reads in self.reads]
        # A body may read values of any graph around it, so what its nodes read counts for the outermost holder too.
        # Values that belong to bodies do not count as needs of the holder.
        for node in self._owners:
            needs[self.top(node)].update(dict.fromkeys(self.reads[node]))
        inner = {v for v, home in enumerate(self.home) if home != NOWHERE}
        return [
            tuple(values) if owner != NOWHERE else tuple(v for v in values if v not in inner)
            for values, owner in zip(needs, self.owner, strict=True)
        ]

    @cached_property
    def operators(self) -> list[Operator]:
        """What is known of the operator of each node."""
        return self._operators.of_all(self.nodes, self.region)

    @cached_property
    def varying(self) -> set[int]:
        """The nodes outside of bodies that are random, contain a random node, or call a function that has one."""
        random = [self.top(node) for node, operator in enumerate(self.operators) if operator.is_random]
        return set(reached(random, lambda node: map(self.top, self.sites.get(self.region[node], ()))))

    @cached_property
    def constant(self) -> set[int]:
        """The values that nodes make and that depend on no input of the model, a function or a body."""
        return self.constants(())

    def is_live(self, value: int) -> bool:
        """Return whether a value is neither stored nor computed from stored values alone."""
        return value not in self.constant and value not in self.stored

    def live_reads(self, node: int) -> list[int]:
        """Return the values that a node itself reads and that depend on inputs, in order."""
        return [value for value in self.reads[node] if self.is_live(value)]

    @cached_property
    def data_independent(self) -> set[int]:
        """The constant values, and values that depend on inputs only through shapes: no data flow along them."""
        return self.constant | self.shape_derived(self.constant)

    def is_constant(self, node: int) -> bool:
        """Return whether no result of a node depends on an input."""
        return self.constant.issuperset(self.writes[node])

    def constants(self, without: Collection[int]) -> set[int]:
        """Return the values that depend on no input of the model, a function or a body, nor on the nodes `without`."""
        constant: set[int] = set()
        stored = self.stored
        for node, needs in enumerate(self.needs):  # not `all(…)`: this is run for every node of large graphs
            for value in needs:
                if value not in constant and value not in stored:
                    break
            else:
                if node not in without and self.top(node) not in self.varying:
                    constant.update(self.writes[node])
        return constant

    def shape_derived(self, constant: Collection[int]) -> set[int]:
        """Return the main graph's values that depend on inputs only through shapes, given the `constant` values."""
        derived: set[int] = set()
        for node in self.main:
            reads_shape = self.operators[node].reads_only_shape
            needs = [v for v in self.needs[node] if v not in self.stored and v not in constant]
            if needs and node not in self.varying and (reads_shape or all(v in derived for v in needs)):
                derived.update(self.writes[node])
        return derived

    @cached_property
    def weighted(self) -> set[int]:
        """The values of the main graph that are computed from weights: stored tensors of several fractional numbers."""
        found = {v for v, t in self.initializers.items() if t.data_type in _FRACTIONS and prod(t.dims) > 1}
        for node in self.main:
            if any(value in found for value in self.needs[node]):
                found.update(self.writes[node])
        return found

    def data_reads(self, node: int) -> tuple[int, ...]:
        """Return the values that a node reads; none if it asks only for a shape, which needs no tensor."""
        return () if self.operators[node].reads_only_shape else self.reads[node]

    def before_floats(self, value: int) -> int:
        """Return the quantised numbers that a node turned back into floats to make a value; itself if none did."""
        maker = self.producer[value]
        is_quantised = maker != NOWHERE and self.operators[maker].dequantises and self.reads[maker]
        return self.reads[maker][0] if is_quantised else value

    def stored_reads(self, node: int) -> list[int]:
        """Return the stored values that a node reads, also quantised ones that a node before turns back into floats."""
        return [value for value in map(self.before_floats, self.reads[node]) if value in self.stored]

    def first_unmade(self) -> tuple[int, int] | None:
        """Return the first node that reads what is neither given nor made before it, and that value; None if none."""
        given = {*self.inputs, *self.stored}
        read = ((node, value) for node in self.main for value in self.needs[node] if value not in given)
        return next(((node, value) for node, value in read if not 0 <= self.producer[value] < node), None)

    def _first_late(self) -> int | None:
        """Return the first node that reads the result of a later node, None if the nodes are in order."""
        made = {self.names[value] for value in self._late}
        # A value that a body reads before it is made was not found when the body was indexed, so it belongs to no
        # graph.
        lost = [v for v, home in self._homes.items() if home == NOWHERE and self.producer[v] == NOWHERE]
        made.update(name for v in lost if self.by_name.get(name := self.names[v], v) != v)
        if not made:
            return None
        missed = {v for v in lost if self.names[v] in made}
        for node, reads in enumerate(self.reads):
            if any(self.producer[v] > node or v in missed for v in reads):
                return node
        return None

    def _add_graph(self, graph: GraphProto, names: ValueNames, region: int) -> list[int]:
        """Index one graph; return the values of its outputs."""
        for info in graph.input:
            self._add_value(names, info.name)
        for tensor in graph.initializer:
            self.initializers[self._add_value(names, tensor.name)] = tensor
        for sparse in graph.sparse_initializer:
            self.sparse[self._add_value(names, sparse.values.name)] = sparse
        self._add_nodes(self._in_order(graph.node), names, region)
        return [self._find_or_add(names, info.name) for info in graph.output]

    def _add_function(self, function: FunctionProto, region: int) -> None:
        names = ValueNames()
        for name in function.input:
            self._add_value(names, name)
        self._add_nodes(self._in_order(function.node), names, region)

    def _in_order(self, nodes: Sequence[NodeProto]) -> Sequence[NodeProto]:
        """Return the nodes of one graph in the order in which they are numbered."""
        return [nodes[place] for place in in_order_of_flow(nodes)] if self._ordered else nodes

    def _add_nodes(self, nodes: Sequence[NodeProto], names: ValueNames, region: int) -> None:
        """Index the nodes of one graph; written for speed, because small commands spend most of their time here."""
        known, number_of = names.get, names.setdefault
        all_nodes, add_reads, add_writes = self.nodes, self.reads.append, self.writes.append
        add_name, add_producer, count = self.names.append, self.producer.append, len(self.names)
        for node in nodes:
            inputs = node.input[:]  # a list: protobuf's own containers take twice as long to go through
            reads: tuple[int, ...] = tuple(map(known, inputs))  # type: ignore[arg-type]  # None is looked for next
            if None in reads:  # an omitted input, or a value of a graph around this one
                reads = tuple([self._find_or_add(names, name) for name in inputs if name])
                count = len(self.names)
            if (attributes := node.attribute) and any(a.type in _WITH_BODY for a in attributes):
                reads += self._add_bodies(node, names, region)
                count = len(self.names)
            number = len(all_nodes)
            writes: tuple[int, ...] = ()
            for name in node.output[:]:
                if not name:
                    continue
                if number_of(name, count) == count:
                    add_name(name)
                    add_producer(number)
                    writes += (count,)
                else:
                    writes += (self._add_value(names, name, number),)
                count = len(self.names)
            all_nodes.append(node)
            add_reads(reads)
            add_writes(writes)
        self.region += [region] * (len(all_nodes) - len(self.region))

    def _add_bodies(self, node: NodeProto, names: ValueNames, region: int) -> tuple[int, ...]:
        """Index the bodies of a node, which gets the next number after their nodes; return the bodies' results."""
        first_node, first_value = len(self.nodes), len(self.names)
        returned = [value for body in bodies(node) for value in self._add_graph(body, ValueNames(names), region)]
        owner = len(self.nodes)
        # Inner bodies come first and have already set the owners of their nodes, hence `setdefault`.
        for inner in range(first_node, owner):
            self._owners.setdefault(inner, owner)
        for value in range(first_value, len(self.names)):
            self._homes.setdefault(value, owner)
        return tuple(returned)

    def _find_or_add(self, names: ValueNames, name: str) -> int:
        """Return the value of a name, in this graph or one around it; an unknown name becomes a value of no graph."""
        graph: ValueNames | None = names
        while graph is not None:
            value = graph.get(name)
            if value is not None:
                return value
            graph = graph.outer
        value = self._add_value(names, name)
        self._homes[value] = NOWHERE
        return value

    def _add_value(self, names: ValueNames, name: str, producer: int = NOWHERE) -> int:
        """Return the value of a name that is defined here, by a node or not; a second definition is another value."""
        value = names.get(name)
        if value is None or self.producer[value] != NOWHERE:
            value = names[name] = len(self.names)
            self.names.append(name)
            self.producer.append(producer)
        elif producer != NOWHERE:  # read before it is made, as in a graph that is not in topological order
            self.producer[value] = producer
            self._homes.pop(value, None)
            self._late.append(value)
        return value


def _filled(count: int, known: Mapping[int, int]) -> list[int]:
    """Return a list of `count` numbers, NOWHERE at the positions that are not in `known`."""
    numbers = [NOWHERE] * count
    for position, number in known.items():
        numbers[position] = number
    return numbers
