"""What every view shows of a tagged model: the tree of module calls, their nodes, the edges, and metrics.

Scopes and nodes are *items* in one numbering. Five nodes under the root (item 0); MatMul and Add belong to `a` (item
1), and Relu to `b` (item 2):

    x -> MatMul (a) -> m -> Add (a) -> s -> Relu (b) -> r -> Softmax -> y          m -> Neg -> z

A viewer opens one scope at a time and needs the edges of that scope's own graph. The obvious way, keeping only edges
with both ends in the scope itself, leaves `a` with one edge and no sign that `m` and `s` leave it, and the root with no
edge at all. So each edge is split at every scope boundary that it crosses (`Structure.levels`): MatMul -> Neg becomes
MatMul -> OUTSIDE within `a`, and `a` -> Neg within the root; Add -> Relu becomes Add -> OUTSIDE in `a`, `a` -> `b` in
the root, and OUTSIDE -> Relu in `b`. Edges with equal ends on a level become one, with all their values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from mxtools.graph.rename import fresh
from mxtools.scopes.scope import ROOT, local_name
from mxtools.scopes.tags import class_of
from mxtools.views.statistics import Statistics

OUTSIDE = -1
"""The end of an edge that lies outside of the shown scope, or of the model."""


@dataclass(frozen=True)
class Scope:
    """One call of a module, and its number of nodes, including those of calls inside it."""

    scope: str
    tag: str
    parent: int
    """The scope around it; OUTSIDE for the root."""
    nodes: int

    @property
    def class_name(self) -> str:
        """The module's class, from the tag."""
        return class_of(self.tag)


@dataclass(frozen=True)
class Node:
    """One node of the graph; inputs and outputs are numbers of values, without omitted ones."""

    name: str
    operator: str
    parent: int
    evidence: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    constant: bool
    """Whether it depends on no input of the model."""
    attributes: dict[str, str]
    merged: tuple[str, ...]
    """The scopes that it stands for, if there are several."""


@dataclass(frozen=True)
class Value:
    """A tensor: its name, its type as text (`float32[1, seq, 8]`, or '' if unknown), and whether it is a weight."""

    name: str
    type: str
    weight: bool
    statistics: Statistics | None = None
    """What is known of the elements of a weight, if that was asked for."""


@dataclass(frozen=True)
class Edge:
    """A value on its way from one item to another; OUTSIDE is before an input and after an output of the model."""

    source: int
    target: int
    value: int


@dataclass
class Metric:
    """Numbers by item: of scopes, and of nodes if each has its own."""

    scopes: dict[int, float] = field(default_factory=dict)
    nodes: dict[int, float] = field(default_factory=dict)
    unit: str = ""
    total: float | None = None
    """The whole of which the numbers are parts; None if they do not add up to anything, such as errors."""


@dataclass(frozen=True)
class Structure:
    """A model to be shown.

    Items are numbered: first the scopes, parents before children, so 0 is the root; then the nodes, in the order of the
    graph. `edges` lead from node to node, from OUTSIDE for inputs of the model, and to OUTSIDE for its outputs.
    """

    title: str
    scopes: list[Scope]
    nodes: list[Node]
    values: list[Value]
    edges: list[Edge]
    metrics: dict[str, Metric]

    @cached_property
    def parent(self) -> list[int]:
        """The scope that each item is in."""
        return [scope.parent for scope in self.scopes] + [node.parent for node in self.nodes]

    @cached_property
    def depth(self) -> list[int]:
        """How many scopes each item is in."""
        found: list[int] = []
        for parent in self.parent:
            found.append(0 if parent == OUTSIDE else found[parent] + 1)
        return found

    @cached_property
    def ids(self) -> list[str]:
        """A unique name for each node: its own, if that is unique."""
        counts = Counter(node.name for node in self.nodes)
        taken = {name for name in counts if name}
        found: list[str] = []
        for number, node in enumerate(self.nodes):
            unique = node.name if counts[node.name] == 1 and node.name else ""
            found.append(unique or fresh(f"{node.name or node.operator}_{number}", taken))
            taken.add(found[-1])
        return found

    def node(self, item: int) -> Node:
        """Return the node of an item."""
        return self.nodes[item - len(self.scopes)]

    def local(self, scope: int) -> str:
        """Return the name of a scope within the scope around it; the root's is `.`."""
        parent = self.scopes[scope].parent
        return local_name(self.scopes[scope].scope, ROOT if parent == OUTSIDE else self.scopes[parent].scope)

    def lineage(self, item: int) -> Iterator[int]:
        """Yield an item, the scope that it is in, and so on up to the root."""
        while item != OUTSIDE:
            yield item
            item = self.parent[item]

    def levels(self) -> list[dict[tuple[int, int], list[int]]]:
        """Return the edges within each scope's own graph: for each (source, target), the values on the edge.

        Source and target are children of the scope, or OUTSIDE if an edge crosses the scope's boundary. The time is in
        proportion to the number of edges times the depth of the tree.
        """
        found: list[dict[tuple[int, int], dict[int, None]]] = [{} for _ in self.scopes]
        parent, depth = self.parent, [*self.depth, 0]  # OUTSIDE is -1, the last: as deep as the root
        for edge in self.edges:
            source, target, value = edge.source, edge.target, edge.value
            while self._around(source) != self._around(target):
                if depth[source] >= depth[target]:
                    found[parent[source]].setdefault((source, OUTSIDE), {})[value] = None
                    source = parent[source]
                else:
                    found[parent[target]].setdefault((OUTSIDE, target), {})[value] = None
                    target = parent[target]
            if OUTSIDE not in (source, target):
                found[parent[source]].setdefault((source, target), {})[value] = None
        return [{ends: list(values) for ends, values in level.items()} for level in found]

    def _around(self, item: int) -> int:
        """Return the scope that an item is in; OUTSIDE for the root and for anything outside of the model."""
        return OUTSIDE if item == OUTSIDE else self.parent[item]

    def shown(self, depth: int | None) -> list[int]:
        """Return what is drawn for each item if `depth` levels are open: itself, or a closed scope around it."""
        found: list[int] = []
        for item, around in enumerate(self.parent):
            hidden = depth is not None and self.depth[item] > depth
            found.append(found[around] if hidden else item)
        return found
