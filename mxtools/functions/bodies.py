"""What a function of a module would hold: the module's nodes, what they are given, and what they return."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from onnx import NodeProto

from mxtools.cut.copied import Copied
from mxtools.functions.structure import Structure
from mxtools.graph.index import NOWHERE, Graph
from mxtools.graph.walk import in_order, nodes_behind
from mxtools.scopes import keys
from mxtools.scopes.annotations import Annotations
from mxtools.scopes.tags import class_of


@dataclass(frozen=True)
class Body:
    """The nodes of a call, in an order that depends on their structure alone.

    Attributes: `call`, its number; `order`, numbers of nodes of the main graph, and their `protos`; `copied`, those of
    which it has copies; `inputs` and `outputs`, names of values; `structure`, equal for calls that can share a
    function.
    """

    call: int
    order: tuple[int, ...]
    protos: tuple[NodeProto, ...]
    copied: frozenset[int]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    structure: str

    @cached_property
    def nodes(self) -> tuple[int, ...]:
        """The nodes in the place of which the call stands."""
        return tuple(node for node in self.order if node not in self.copied)

    @property
    def copies(self) -> list[NodeProto]:
        """The nodes of which it has copies."""
        return [proto for node, proto in zip(self.order, self.protos, strict=True) if node in self.copied]

    def in_order(self, order: Sequence[int]) -> Body:
        """Return the body with its nodes in another order, which is given by their places in this one."""
        return replace(self, order=tuple(self.order[n] for n in order), protos=tuple(self.protos[n] for n in order))


class Bodies:
    """The bodies of the calls of a model."""

    def __init__(self, annotations: Annotations) -> None:
        """Find the nodes of each call, those of the calls below it too; O(nodes * depth)."""
        self.annotations = annotations
        graph, hierarchy = annotations.graph, annotations.hierarchy
        self._results = set(graph.outputs)
        self._nodes: dict[int, list[int]] = {}
        self._astray: set[int] = set()
        for node, call in enumerate(annotations.call):
            if call is None or graph.region[node]:
                continue
            top = graph.top(node)
            outer = call if top == node else annotations.call[top]
            for around in hierarchy.lineage(call):
                if top == node:
                    self._nodes.setdefault(around, []).append(node)
                elif outer is None or not hierarchy.within(outer, around):
                    self._astray.add(around)

    def size(self, call: int) -> int:
        """Return how many nodes of the main graph a call has."""
        return len(self._nodes.get(call, ()))

    def why_none(self, call: int) -> str:
        """Return why a call has no body; empty where it has one."""
        annotations = self.annotations
        scope = annotations.hierarchy.scopes[call]
        if call in annotations.equal:
            return f"the nodes of {annotations.hierarchy.scopes[annotations.equal[call]]} do its work"
        if call in self._astray:
            return "it is in a body of If, Loop or Scan, at least in part"
        if call not in self._nodes:
            return annotations.absent.get(scope, "it has no nodes in the main graph")
        own = self._nodes[call]
        return "" if self._returned(own, set(own)) else "it computes nothing that the rest of the graph reads"

    def is_folded(self, call: int) -> bool:
        """Return whether a call is one node, which calls a function that the call was folded into."""
        annotations = self.annotations
        nodes = self._without_shared(self._nodes.get(call, []))
        return [annotations.call[node] for node in nodes] == [call] and keys.FOLDED in keys.props(
            annotations.graph.nodes[nodes[0]]
        )

    def of(self, call: int, copied: frozenset[int] = frozenset()) -> Body:
        """Return the body of a call that has one, with copies of some other nodes."""
        graph, own = self.annotations.graph, self._without_shared(self._nodes[call])
        inside = copied.union(own)
        returned = self._returned(own, set(own))

        def before(node: int) -> list[int]:
            return [p for v in graph.needs[node] if (p := graph.producer[v]) in inside]

        nodes = tuple(in_order([*(graph.producer[v] for v in returned), *own], before))
        protos = tuple(graph.nodes[node] for node in nodes)
        outputs = tuple(graph.names[value] for value in returned)
        structure = Structure(protos, outputs)
        return Body(call, nodes, protos, copied, tuple(structure.inputs), outputs, structure.key)

    def key(self, body: Body) -> tuple[str, str]:
        """Return what is equal for bodies that can share a function: the class and the structure."""
        return class_of(self.annotations.hierarchy.tags[body.call]), body.structure

    def aligned(self, found: Iterable[Body]) -> list[Body]:
        """Return bodies, with copies of the shapes that they are given where they are equal to others then.

        Exporters compute equal shapes once, so that the first of some equal layers may be given a shape that each of
        the others computes from what it is given. Of two layers that are equal then:

            s = Shape(x);  mask = Expand(m, s);  layer.0: r = Reshape(MatMul(x, w), s)       has a copy of Shape(x)
                                                 layer.1: t = Shape(y); Reshape(MatMul(y, v), t)
        """
        bodies = list(found)
        known = {self.key(body) for body in bodies}
        return [other if (other := self._with_shapes(body)) and self.key(other) in known else body for body in bodies]

    def _with_shapes(self, body: Body) -> Body | None:
        """Return a body with copies of the shapes that it is given and that begin at what it is given besides."""
        graph = self.annotations.graph
        given = [graph.by_name[name] for name in body.inputs]
        at_hand = {value for value in given if value not in graph.data_independent}
        if len(at_hand) == len(given) or body.copied:
            return None
        free = self._copied.from_hand(given, at_hand)
        shapes = [value for value in given if graph.producer[value] in free]
        copied = nodes_behind(graph, shapes, until=at_hand.__contains__).difference(body.order)
        return self.of(body.call, frozenset(copied)) if copied else None

    @cached_property
    def _copied(self) -> Copied:
        return Copied(self.annotations.graph, ())

    def _without_shared(self, own: list[int]) -> list[int]:
        """Return nodes without the constants and shapes that others read too, where these need nothing else of theirs.

        Exporters compute equal constants once, so that they stand in one of several modules that need them: of three
        equal layers the first would return what the others are given. Left outside, they are given to all three. So
        are other names of stored weights, which exporters make of equal ones.
        """
        graph, inside = self.annotations.graph, set(own)
        free: set[int] = set()
        for node in own:
            makers = inside.intersection(graph.producer[value] for value in graph.needs[node])
            if makers <= free and graph.data_independent.issuperset(graph.writes[node]):
                free.add(node)
        for node in reversed(own):
            is_alias = graph.operators[node].is_named("Identity") and graph.stored.issuperset(graph.reads[node])
            if node in free and (is_alias or self._returned([node], inside)):
                inside.discard(node)
        kept = [node for node in own if node in inside]
        return kept if self._returned(kept, inside) else own

    def _returned(self, nodes: Iterable[int], inside: Collection[int]) -> list[int]:
        """Return the values that some nodes make and that nodes outside of others read, in order."""
        graph = self.annotations.graph
        made = [value for node in nodes for value in graph.writes[node]]
        return [
            v for v in made if v in self._results or any(graph.top(reader) not in inside for reader in graph.readers[v])
        ]


@dataclass(frozen=True)
class Arranged:
    """The order in which bodies and other nodes can stand.

    Attributes: `order`, the first node of each body, and the other nodes; `broken`, for each body that cannot be one
    thing, a value that it reads and that is computed elsewhere from its own results.
    """

    order: list[int]
    broken: dict[int, str]


def arranged(graph: Graph, bodies: Mapping[int, Body]) -> Arranged:
    """Return an order of the main graph in which the nodes of each body stand together; bodies by their first node.

    A body that has to be left and entered again is broken up into its nodes. Four nodes, of which two bodies:

        x -> A1 -> B1 -> A2 -> B2         with A = {A1, A2} and B = {B1, B2} there is no order
        x -> A  -> B1 -> ...              so the larger of those on the way round, here A, is broken up

    Each node is placed once, and each body broken up once, so this takes O((nodes + edges) log nodes) and the ways
    round that are found.
    """
    return _Arrangement(graph, bodies).arrange()


class _Arrangement:
    """Units, which are bodies and other nodes, by the number of their first node, and what each still waits for."""

    def __init__(self, graph: Graph, bodies: Mapping[int, Body]) -> None:
        self.graph = graph
        self.bodies = dict(bodies)
        self.unit = {node: node for node in graph.main}
        for first, body in bodies.items():
            self.unit.update(dict.fromkeys(body.nodes, first))
        self.placed: dict[int, None] = {}
        self.waiting = {unit: self._sources(unit) for unit in dict.fromkeys(self.unit.values())}
        self.broken: dict[int, str] = {}

    def arrange(self) -> Arranged:
        """Place every unit after those that it waits for, in the order of their first nodes where there is a choice."""
        from heapq import heapify, heappop, heappush

        ready = [unit for unit, sources in self.waiting.items() if not sources]
        heapify(ready)
        while len(self.placed) < len(self.waiting):
            if not ready:
                ready = sorted(self._break_up())
                continue
            unit = heappop(ready)
            self.placed[unit] = None
            for target in self._targets(unit):
                sources = self.waiting[target]
                if unit in sources:
                    sources.discard(unit)
                    if not sources:
                        heappush(ready, target)
        return Arranged(list(self.placed), self.broken)

    def _nodes(self, unit: int) -> tuple[int, ...]:
        return self.bodies[unit].nodes if unit in self.bodies else (unit,)

    def _sources(self, unit: int) -> set[int]:
        """Return the units that make what a unit reads and that are not placed."""
        graph = self.graph
        makers = (graph.producer[value] for node in self._nodes(unit) for value in graph.needs[node])
        return {self.unit[m] for m in makers if m != NOWHERE and self.unit[m] != unit} - self.placed.keys()

    def _targets(self, unit: int) -> set[int]:
        """Return the units that read what a unit makes."""
        graph = self.graph
        made = (value for node in self._nodes(unit) for value in graph.writes[node])
        return {self.unit[graph.top(reader)] for value in made for reader in graph.readers[value]} - {unit}

    def _break_up(self) -> list[int]:
        """Break up the largest body on a way round; return the units that wait for nothing now."""
        way: dict[int, None] = {}
        unit = min(u for u in self.waiting if u not in self.placed)
        while unit not in way:
            way[unit] = None
            unit = min(self.waiting[unit])
        walked = list(way)
        cycle = walked[walked.index(unit) :]
        largest = max((u for u in cycle if u in self.bodies), key=lambda u: (len(self.bodies[u].nodes), -u))
        before = cycle[(cycle.index(largest) + 1) % len(cycle)]  # the way goes from what reads to what is read
        self.broken[largest] = self._value_between(before, largest)
        targets = self._targets(largest)
        nodes = self.bodies.pop(largest).nodes
        self.unit.update({node: node for node in nodes})
        for changed in (*nodes, *targets):
            self.waiting[changed] = self._sources(changed)
        return [changed for changed in (*nodes, *targets) if not self.waiting[changed]]

    def _value_between(self, source: int, target: int) -> str:
        graph, made = self.graph, {v for node in self._nodes(source) for v in self.graph.writes[node]}
        return next(graph.names[v] for node in self._nodes(target) for v in graph.needs[node] if v in made)
