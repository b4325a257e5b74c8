"""For which module calls the nodes of an optimised graph, or a runtime's kernels, do the work.

    original    x ─ MatMul(w1) ─ Add(b1) ─ Relu ─r─ MatMul(w2) ─n─ Add(b2) ─ y
                    one          one       act      two            two
    optimised   x ─────── FusedGemm(w1, b1) ─────r─ MatMul(w2) ─n─ Add(b2) ─ y
                          .                         two            two

The obvious way goes by the name of a kernel. It gives the time of the FusedGemm to `one` or `act`, whichever its name
happens to contain, although the time is spent for both. So a kernel that works for several modules counts for their
lowest common ancestor, here the root. This way no module's own time contains another's.

An optimiser keeps no record of what it did. But it keeps the names of most tensors, and derives new names from those of
nodes and tensors. So an optimised node does the work of:

- the original nodes that made its outputs (Relu, which made r), or else of the node from which its name is derived;
- the original nodes that used its weights, if no other node uses these in either graph (MatMul and Add, which used w1
  and b1);
- the nodes in between that no other optimised node claims, if the original has everything that it reads.

Any other node, such as a reshape before a product, belongs to the nodes that read its result.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable

from mxtools.graph.index import NOWHERE, Graph
from mxtools.graph.walk import nearest
from mxtools.scopes.annotations import INDIRECT, Annotations, Evidence
from mxtools.scopes.hierarchy import ROOT_CALL

_BETWEEN = re.compile(r"\s\+\s|\.\.\.|[\x1e\x1f\[\](){},|\s]")
"""What separates names of nodes in the name of a TensorRT layer: 'a + b', '{ForeignNode[a...b]}', 'PWN(a, b)'."""


class OriginalNames:
    """The original nodes, by their names and by the names of the tensors they make; ambiguous names are left out."""

    def __init__(self, graph: Graph) -> None:
        """Index a graph."""
        tensors = ((name, graph.producer[v]) for v, name in enumerate(graph.names) if graph.producer[v] != NOWHERE)
        self.tensors = _unique(tensors)
        self.nodes = self.tensors | _unique((proto.name, n) for n, proto in enumerate(graph.nodes) if proto.name)

    def derived(self, name: str) -> int | None:
        """Return the node with whose name, or whose tensor's name, a name begins, up to its end or a separator.

        If there are several, the longest such name counts; None if there is none.
        """
        for end in range(len(name), 0, -1):
            is_whole = end == len(name) or not (name[end].isalnum() and name[end - 1].isalnum())
            if is_whole and name[:end] in self.nodes:
                return self.nodes[name[:end]]
        return None

    def within(self, text: str) -> list[int]:
        """Return the nodes whose names are in a text, or else the node with whose name it begins."""
        found = [self.nodes[word] for word in _BETWEEN.split(text) if word in self.nodes]
        derived = self.derived(text) if not found else None
        return found if derived is None else [derived]


class Attribution:
    """Attributes nodes of an optimised graph, or kernels by their names alone, to the calls of the original graph.

    Attributes: `names`, those of the original; `calls`, for each node of the optimised graph, None if nothing is known.
    """

    def __init__(self, annotations: Annotations, optimised: Graph | None = None) -> None:
        """Attribute all nodes of an optimised graph, or of the original if there is none. O(nodes + edges)."""
        self._annotations, self._graph = annotations, annotations.graph
        self._optimised = optimised = optimised or annotations.graph
        self.hierarchy = annotations.hierarchy
        self.names = OriginalNames(self._graph)
        originals = [self._originals(node) for node in range(len(optimised.nodes))]
        unclaimed = self._calls_of_unclaimed({node for nodes in originals for node in nodes})
        self.calls = []
        for node, nodes in enumerate(originals):
            between = [unclaimed[original] for original in nodes] if self._reads_known(node) else []
            self.calls.append(self._common([*map(self._call, nodes), *between]))
        self._fill(reversed(range(len(originals))), optimised.targets)
        self._fill(range(len(originals)), optimised.sources)
        self._by_name = _unique((proto.name, node) for node, proto in enumerate(optimised.nodes) if proto.name)

    def call_of(self, kernel: str, nodes: Collection[str] = ()) -> int | None:
        """Return the call of a kernel, by the names of the original nodes in it, else by its own name."""
        known = [self.names.nodes[name] for name in nodes if name in self.names.nodes]
        if not known and kernel in self._by_name:
            return self.calls[self._by_name[kernel]]
        return self._common(map(self._call, known or self.names.within(kernel)))

    def _originals(self, node: int) -> set[int]:
        """Return the original nodes whose work an optimised node is known to do."""
        optimised, proto = self._optimised, self._optimised.nodes[node]
        made = (self.names.tensors.get(optimised.names[v]) for v in optimised.writes[node])
        found = {original for original in made if original is not None}
        derived = self.names.derived(proto.name) if not found else None
        if derived is not None:
            found = {derived, self._fused_with(derived, proto.op_type)}
        return found | set(self._weight_users(node))

    def _fused_with(self, node: int, operator: str) -> int:
        """Return the nearest original node with an operator that feeds a node through removed tensors; else the node.

        For example, an optimised convolution can have the name of the activation that it also does.
        """
        graph, left = self._graph, self._optimised.by_name

        def sources(at: int) -> set[int]:
            """Return the nodes that make those inputs of a node that the optimiser removed."""
            return {graph.producer[v] for v in graph.needs[at] if graph.names[v] not in left} - {NOWHERE}

        # by its name alone: ONNX Runtime's variants of ONNX's operators are in domains of its own
        found = nearest([node], sources, lambda at: graph.nodes[at].op_type == operator)
        return node if found is None else found

    def _weight_users(self, node: int) -> Iterable[int]:
        """Yield the only reader of a weight in the original, if the optimised node is its only reader too."""
        for value in self._optimised.reads[node]:
            name = self._optimised.names[value]
            original = self._graph.by_name.get(name) if value in self._optimised.stored else None
            if original is not None and original in self._graph.stored:
                readers = set(self._graph.readers[original])
                if len(readers) == 1 and len(set(self._optimised.readers[value])) == 1:
                    yield from readers

    def _reads_known(self, node: int) -> bool:
        """Return whether the original has all tensors that an optimised node reads."""
        read = (v for v in self._optimised.reads[node] if v not in self._optimised.stored)
        return all(self._optimised.names[v] in self._graph.by_name for v in read)

    def _calls_of_unclaimed(self, claimed: Collection[int]) -> list[int | None]:
        """Return for each original node the common call of the nodes that lead to it and that nobody claims.

        Auxiliary nodes do not count; None if there are no others.
        """
        graph = self._graph
        still = graph.data_independent
        found: list[int | None] = []
        for node in range(len(graph.nodes)):
            makers = {graph.producer[v] for v in graph.needs[node] if v not in still} - {NOWHERE}
            free = [maker for maker in makers if maker not in claimed and maker < node]
            direct = (self._call(maker) for maker in free if self._annotations.evidence[maker] not in INDIRECT)
            found.append(self._common([*direct, *(found[maker] for maker in free)]))
        return found

    def _fill(self, nodes: Iterable[int], neighbours: Callable[[int], Iterable[int]]) -> None:
        """Give the open nodes the common call of their neighbours.

        If this is the root only because the neighbours lie far apart, the node stays open.
        """
        for node in nodes:
            if self.calls[node] is None:
                known = {call for n in neighbours(node) if (call := self.calls[n]) is not None}
                common = self._common(known)
                self.calls[node] = common if common != ROOT_CALL or known == {ROOT_CALL} else None

    def _call(self, node: int) -> int | None:
        """Return the call of an original node, None if nothing is known."""
        known = self._annotations.evidence[node] not in (None, Evidence.ROOT)
        return self._annotations.call[node] if known else None

    def _common(self, calls: Iterable[int | None]) -> int | None:
        known = [call for call in calls if call is not None]
        return self.hierarchy.common(known) if known else None


def _unique(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Return a dictionary of pairs, without the names that have several numbers."""
    found: dict[str, int] = {}
    ambiguous = set()
    for name, number in pairs:
        if found.setdefault(name, number) != number:
            ambiguous.add(name)
    return {name: number for name, number in found.items() if name not in ambiguous}
