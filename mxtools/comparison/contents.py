"""What a graph's modules contain, without names: their own nodes, how these are connected, and their weights.

    x ─┬─ Neg ─a─ Sub(a, x) ─b─┬─ Neg ─c─ Sub(c, b) ─d─ Sub(b, d) ─ y
       └──────────┘            └─────────────┘
          one     one             two     two           three

    `one` and `two` have the same nodes: a Neg of something from outside, a Sub of that Neg and something from outside

Which modules are the same in two models? Names do not show it: every export numbers them anew. The numbers of each
operator do not show it either: a module with Sub(x, a) instead of Sub(a, x) has the same ones, and computes something
else. Searching for a mapping of one graph onto the other takes too long.

So each node gets a digest of its operator, its attributes and what it reads. For a node of the same module, this is
that node's digest; for a weight, its type and shape; for anything else, only that it comes from outside. One walk in
the order of the nodes is enough. Two modules have the same nodes if each digest occurs equally often in both. Weights
are compared by digests of their elements. O(nodes + edges + bytes of weights); no weight stays in memory.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b

from onnx import AttributeProto, TensorProto

from mxtools.files.weights import DataPlace, is_deferred, is_external
from mxtools.graph.index import NOWHERE
from mxtools.graph.operators import default_attributes, operator_key, operator_title
from mxtools.graph.types import type_of, type_text
from mxtools.graph.walk import reached
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes.annotations import INDIRECT
from mxtools.scopes.hierarchy import ROOT_CALL

UNTAGGED = "(untagged)"
"""Stands in the place of the scope of nodes that have none."""
_GRAPHS = frozenset({AttributeProto.GRAPH, AttributeProto.GRAPHS})
_TENSORS = frozenset({AttributeProto.TENSOR, AttributeProto.TENSORS})

Weight = tuple[str, bytes]
"""Type and shape of a tensor, and the digest of its elements."""

Digests = dict[DataPlace | str, bytes]
"""Digests of elements by the place of the elements: beside a model, or in the model's own file."""


@dataclass
class ModuleContent:
    """What some nodes of one module contain.

    Attributes: `nodes`, their digests; `operators`, how many there are of each; `weights`, each with one of its names;
    `uses`, which node (by its digest) has which weight in which place; `reads`, which node reads which value from
    outside in which place.
    """

    nodes: Counter[bytes] = field(default_factory=Counter)
    operators: Counter[str] = field(default_factory=Counter)
    weights: dict[Weight, str] = field(default_factory=dict)
    uses: set[tuple[bytes, int, Weight]] = field(default_factory=set)
    reads: list[tuple[bytes, int, int]] = field(default_factory=list)


class Contents:
    """The contents of a tagged model's modules.

    Attributes: `annotations` and `graph` of the model; `names`, those of its nodes and values.
    """

    def __init__(self, model: WorkingModel, digests: Digests) -> None:
        """Take a model; `digests` keeps those of weights in files, for other models that use the same files."""
        self.annotations, self.graph = model.annotations, model.graph
        self._weights, self._digests = model.weights, digests
        self.names = {*self.graph.names, *(node.name for node in self.graph.nodes)} - {""}
        self._found: dict[tuple[int, ...], ModuleContent] = {}
        self._nodes: dict[str, list[int]] = defaultdict(list)
        for node in range(len(self.graph.nodes)):
            self._nodes[self.scope(node)].append(node)

    @cached_property
    def scopes(self) -> dict[str, tuple[str, str]]:
        """The scopes of nodes and those around them, each with its tag and its caller's scope, in order of work."""
        hierarchy = self.annotations.hierarchy
        calls = {ROOT_CALL: None}
        for node in sorted(range(len(self.graph.nodes)), key=self.graph.is_constant):
            call = self.annotations.call[node]
            calls |= dict.fromkeys(reversed(list(hierarchy.lineage(-1 if call is None else call))))
        callers = [hierarchy.scopes[hierarchy.parent[at]] if at != ROOT_CALL else "" for at in calls]
        found = {hierarchy.scopes[at]: (hierarchy.tags[at], by) for at, by in zip(calls, callers, strict=True)}
        return found | ({UNTAGGED: ("", "")} if UNTAGGED in self._nodes else {})

    def scope(self, node: int) -> str:
        """Return the scope of a node."""
        call = self.annotations.call[node]
        return UNTAGGED if call is None else self.annotations.hierarchy.scopes[call]

    def nodes(self, scope: str) -> list[int]:
        """Return the own nodes of a call, without those of calls inside it."""
        return self._nodes.get(scope, [])

    def content(self, nodes: Iterable[int]) -> ModuleContent:
        """Return what some nodes of one module contain; it is computed once, and the nodes must be in order."""
        key = tuple(nodes)
        if key not in self._found:
            self._found[key] = self._content(key)
        return self._found[key]

    def _content(self, nodes: Iterable[int]) -> ModuleContent:
        found, known, graph = ModuleContent(), dict[int, bytes](), self.graph
        for node in nodes:
            proto = graph.nodes[node]
            digest = self._digest(node, known)
            found.nodes[digest] += 1
            found.operators[operator_title(proto)] += 1
            for place, (name, tensor) in enumerate(self._tensors(node)):
                weight = self.weight(tensor)
                found.weights.setdefault(weight, name)
                found.uses.add((digest, place, weight))
            outer = (v for v in graph.reads[node] if v not in known and v not in graph.stored)
            found.reads += [(digest, place, value) for place, value in enumerate(outer)]
            known.update((value, b"%s %d" % (digest, at)) for at, value in enumerate(graph.writes[node]))
        return found

    def weight(self, tensor: TensorProto) -> Weight:
        """Return what a stored tensor is, whatever its name."""
        return type_text(type_of(tensor)), self._elements(tensor)

    def inserted(self, scope: str, known: AbstractSet[str]) -> set[int]:
        """Return the own nodes of a call that a tool put in: auxiliary ones whose names were all unknown before.

        `known` are the names in the model that the tool was given.
        """
        nodes, evidence = self.graph.nodes, self.annotations.evidence
        own = [node for node in self.nodes(scope) if evidence[node] in INDIRECT]
        return {node for node in own if known.isdisjoint((nodes[node].name, *nodes[node].output))}

    def scope_around(self, node: int, inserted: Collection[int]) -> str:
        """Return the scope of the module that contains an inserted node and what feeds it through inserted nodes."""
        annotations, calls = self.annotations, [call for call in [self.annotations.call[node]] if call is not None]
        for value in self.behind(self.graph.reads[node], inserted):
            call = annotations.call[self.graph.producer[value]] if self.graph.producer[value] != NOWHERE else ROOT_CALL
            calls.append(ROOT_CALL if call is None else call)
        return annotations.hierarchy.scopes[annotations.hierarchy.common(calls)]

    def source(self, value: int, inserted: Collection[int]) -> str:
        """Return the scope that makes a value, looking through inserted nodes; for an input of the graph, its name."""
        behind = self.behind([value], inserted)
        value = behind[0] if len(behind) == 1 else value
        node = self.graph.producer[value]
        return self.graph.names[value] if node == NOWHERE else self.scope(node)

    def behind(self, values: Iterable[int], inserted: Collection[int]) -> list[int]:
        """Return the values from which inserted nodes make some values, without weights; or these values themselves."""
        graph = self.graph

        def sources(value: int) -> Sequence[int]:
            """Return what an inserted node reads; nothing if another node, or none, makes the value."""
            return graph.reads[graph.producer[value]] if graph.producer[value] in inserted else ()

        found = reached(values, sources)
        return [v for v in found if graph.producer[v] not in inserted and v not in graph.stored]

    def _digest(self, node: int, known: dict[int, bytes]) -> bytes:
        proto, graph = self.graph.nodes[node], self.graph
        state = blake2b(" ".join(operator_key(proto)).encode(), digest_size=16)
        defaults = default_attributes(graph.operators[node].schema)
        for attribute in sorted(map(attribute_bytes, proto.attribute)):
            if attribute not in defaults:
                state.update(b"\0attribute " + attribute)
        for value in graph.reads[node]:
            tensor = graph.initializers.get(value)
            outer = type_text(type_of(tensor)).encode() if tensor is not None else b"outer"
            state.update(b"\0input " + known.get(value, outer))
        return state.digest()

    def _tensors(self, node: int) -> Iterator[tuple[str, TensorProto]]:
        """Yield the weights that a node reads or contains, with their names."""
        graph = self.graph
        for value in graph.reads[node]:
            if value in graph.initializers:
                yield graph.names[value], graph.initializers[value]
            elif value in graph.sparse:
                yield graph.names[value], graph.sparse[value].values
                yield f"{graph.names[value]} (indices)", graph.sparse[value].indices
        for attribute in graph.nodes[node].attribute:
            held = [attribute.t] if attribute.type == AttributeProto.TENSOR else attribute.tensors
            yield from ((graph.names[v], tensor) for v in graph.writes[node][:1] for tensor in held)

    def _elements(self, tensor: TensorProto) -> bytes:
        """Return the digest of a tensor's elements."""
        known: DataPlace | str = ""
        if is_external(tensor):
            known = self._weights.place(tensor)
        elif is_deferred(tensor):
            known = f"{id(self._weights)} {tensor.external_data[0].value}"
        if known not in self._digests:
            digest = self._weights.digest(tensor)
            if not known:
                return digest
            self._digests[known] = digest
        return self._digests[known]


def attribute_bytes(attribute: AttributeProto) -> bytes:
    """Return an attribute as bytes; of a tensor only the type, of a graph nothing, since its nodes are compared too."""
    if attribute.type in _GRAPHS:
        return f"{attribute.name} graph".encode()
    if attribute.type in _TENSORS:
        types = [type_text(type_of(tensor)) for tensor in (attribute.t, *attribute.tensors)]
        return f"{attribute.name} {types}".encode()
    copy = AttributeProto()
    copy.CopyFrom(attribute)
    copy.ClearField("doc_string")
    return bytes(copy.SerializeToString(deterministic=True))
