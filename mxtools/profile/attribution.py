"""Which module calls the nodes of an optimised graph, or the kernels of a runtime, do the work of.

An optimiser keeps the names of most tensors, and derives names from those of nodes and tensors. An optimised node does
the work of the original nodes that made its outputs, or else of the one that its name derives from; of those whose
weights it reads; and, where it reads tensors of the original, of what lies between and is no other node's. Its call is
the lowest common ancestor of theirs. What is left, such as a reshape before a product, belongs to what reads it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable

from mxtools.graph.index import NOWHERE, Graph
from mxtools.graph.walk import nearest
from mxtools.scopes.annotations import INDIRECT, Annotations, Evidence
from mxtools.scopes.hierarchy import ROOT_CALL

_BETWEEN = re.compile(r"\s\+\s|\.\.\.|[\x1e\x1f\[\](){},|\s]")
"""What stands between names of nodes in the name of a TensorRT layer: 'a + b', '{ForeignNode[a...b]}', 'PWN(a, b)'."""


class OriginalNames:
    """The original nodes by their names and by those of the tensors that they make; ambiguous names are left out."""

    def __init__(self, graph: Graph) -> None:
        """Index a graph."""
        tensors = ((name, graph.producer[v]) for v, name in enumerate(graph.names) if graph.producer[v] != NOWHERE)
        self.tensors = _unique(tensors)
        self.nodes = self.tensors | _unique((proto.name, n) for n, proto in enumerate(graph.nodes) if proto.name)

    def derived(self, name: str) -> int | None:
        """Give the node with the longest name, or tensor name, that a name is or begins with up to a separator."""
        for end in range(len(name), 0, -1):
            whole = end == len(name) or not (name[end].isalnum() and name[end - 1].isalnum())
            if whole and name[:end] in self.nodes:
                return self.nodes[name[:end]]
        return None

    def within(self, text: str) -> list[int]:
        """Give the nodes whose names stand in a text, else the one that it begins with."""
        found = [self.nodes[word] for word in _BETWEEN.split(text) if word in self.nodes]
        derived = self.derived(text) if not found else None
        return found if derived is None else [derived]


class Attribution:
    """Attributes nodes of an optimised graph, or kernels by their names alone, to the calls of the original graph.

    Attributes: `names`, the original's; `calls`, by node of the optimised graph, None where nothing is known.
    """

    def __init__(self, annotations: Annotations, optimised: Graph | None = None) -> None:
        """Attribute all nodes of an optimised graph; without any it is the original. O(nodes + edges)."""
        self._annotations, self._graph = annotations, annotations.graph
        self._optimised = optimised = optimised or annotations.graph
        self.hierarchy = annotations.hierarchy
        self.names = OriginalNames(self._graph)
        own = [self._own(node) for node in range(len(optimised.nodes))]
        reach = self._reach({node for nodes in own for node in nodes})
        self.calls = []
        for node, originals in enumerate(own):
            between = [reach[original] for original in originals] if self._reads_known(node) else []
            self.calls.append(self._common([*map(self._call, originals), *between]))
        self._fill(reversed(range(len(own))), optimised.targets)
        self._fill(range(len(own)), optimised.sources)
        self._by_name = _unique((proto.name, node) for node, proto in enumerate(optimised.nodes) if proto.name)

    def call_of(self, kernel: str, nodes: Collection[str] = ()) -> int | None:
        """Give the call of a kernel, by the names of the original nodes that it is made of, else by its own name."""
        said = [self.names.nodes[name] for name in nodes if name in self.names.nodes]
        if not said and kernel in self._by_name:
            return self.calls[self._by_name[kernel]]
        return self._common(map(self._call, said or self.names.within(kernel)))

    def _own(self, node: int) -> set[int]:
        """Give the original nodes that an optimised one is known to do the work of."""
        optimised, proto = self._optimised, self._optimised.nodes[node]
        made = (self.names.tensors.get(optimised.names[v]) for v in optimised.writes[node])
        found = {original for original in made if original is not None}
        derived = self.names.derived(proto.name) if not found else None
        if derived is not None:
            found = {derived, self._working(derived, proto.op_type)}
        return found | set(self._weighing(node))

    def _working(self, node: int, operator: str) -> int:
        """Give the nearest original node of an operator that leads to one by tensors that are gone; else that one.

        An optimised convolution is named by the activation that it does too.
        """
        graph, left = self._graph, self._optimised.by_name

        def sources(at: int) -> set[int]:
            return {graph.producer[v] for v in graph.needs[at] if graph.names[v] not in left} - {NOWHERE}

        found = nearest([node], sources, lambda at: graph.nodes[at].op_type == operator)
        return node if found is None else found

    def _weighing(self, node: int) -> Iterable[int]:
        """Give the original nodes that are alone in reading a weight which an optimised node is alone in reading."""
        for value in self._optimised.reads[node]:
            name = self._optimised.names[value]
            original = self._graph.by_name.get(name) if value in self._optimised.stored else None
            if original is not None and original in self._graph.stored:
                readers = set(self._graph.readers[original])
                if len(readers) == 1 and len(set(self._optimised.readers[value])) == 1:
                    yield from readers

    def _reads_known(self, node: int) -> bool:
        """Tell whether all tensors that an optimised node reads are the original's."""
        read = (v for v in self._optimised.reads[node] if v not in self._optimised.stored)
        return all(self._optimised.names[v] in self._graph.by_name for v in read)

    def _reach(self, claimed: Collection[int]) -> list[int | None]:
        """Give for each original node the call of what leads to it and is nobody's; auxiliary ones do not count."""
        graph = self._graph
        still = graph.constant | graph.shape_derived(graph.constant)
        reach: list[int | None] = []
        for node in range(len(graph.nodes)):
            makers = {graph.producer[v] for v in graph.needs[node] if v not in still} - {NOWHERE}
            free = [maker for maker in makers if maker not in claimed and maker < node]
            direct = (self._call(maker) for maker in free if self._annotations.evidence[maker] not in INDIRECT)
            reach.append(self._common([*direct, *(reach[maker] for maker in free)]))
        return reach

    def _fill(self, nodes: Iterable[int], neighbours: Callable[[int], Iterable[int]]) -> None:
        """Give the open nodes the call of their neighbours; a root that nothing but their distance makes is none."""
        for node in nodes:
            if self.calls[node] is None:
                known = {call for n in neighbours(node) if (call := self.calls[n]) is not None}
                common = self._common(known)
                self.calls[node] = common if common != ROOT_CALL or known == {ROOT_CALL} else None

    def _call(self, node: int) -> int | None:
        """Give the call of an original node, None where nothing is known."""
        known = self._annotations.evidence[node] not in (None, Evidence.ROOT)
        return self._annotations.call[node] if known else None

    def _common(self, calls: Iterable[int | None]) -> int | None:
        known = [call for call in calls if call is not None]
        return self.hierarchy.common(known) if known else None


def _unique(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Give a dictionary of pairs, without the keys that have several values."""
    found: dict[str, int] = {}
    ambiguous = set()
    for name, number in pairs:
        if found.setdefault(name, number) != number:
            ambiguous.add(name)
    return {name: number for name, number in found.items() if name not in ambiguous}
