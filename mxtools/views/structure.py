"""What every view shows of a tagged model: the tree of module calls, their nodes, the edges, and metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from mxtools.graph.rename import fresh
from mxtools.scopes.scope import ROOT
from mxtools.scopes.tags import class_of

OUTSIDE = -1
"""What an edge leads to or comes from that is not in the module, or not in the model."""


@dataclass(frozen=True)
class Scope:
    """One call of a module: where it is, how many nodes are below it."""

    scope: str
    tag: str
    parent: int
    """The item that it is in; OUTSIDE for the root."""
    nodes: int

    @property
    def class_name(self) -> str:
        """The module's class, as the tag has it."""
        return class_of(self.tag)


@dataclass(frozen=True)
class Node:
    """One node of the graph; inputs and outputs are values by number, those of optional inputs left out."""

    name: str
    operator: str
    parent: int
    evidence: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    constant: bool
    """It depends on no input of the model."""
    attributes: dict[str, str]
    merged: tuple[str, ...]
    """The scopes that it stands for, where there are several."""


@dataclass(frozen=True)
class Value:
    """A tensor: its name, its type as text (`float32[1, seq, 8]`), '' where unknown, and whether it is a weight."""

    name: str
    type: str
    weight: bool


@dataclass(frozen=True)
class Edge:
    """A value that leads from one item to another; OUTSIDE at the boundary."""

    source: int
    target: int
    value: int


@dataclass
class Metric:
    """A number for modules, and for nodes where it is known of each, both by item."""

    scopes: dict[int, float] = field(default_factory=dict)
    nodes: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Structure:
    """A model to be shown.

    Items are numbered: first the scopes, parents first, 0 the root; then the nodes, in the order of the graph. `edges`
    are between nodes, and from and to OUTSIDE for what the model is given and returns.
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
        """A name for each node that no other has, its own where that is one."""
        counts = Counter(node.name for node in self.nodes)
        taken = {name for name in counts if name}
        found: list[str] = []
        for number, node in enumerate(self.nodes):
            unique = node.name if counts[node.name] == 1 and node.name else ""
            found.append(unique or fresh(f"{node.name or node.operator}_{number}", taken))
            taken.add(found[-1])
        return found

    def node(self, item: int) -> Node:
        """Give the node of an item that is one."""
        return self.nodes[item - len(self.scopes)]

    def local(self, scope: int) -> str:
        """Give the name of a scope in the one around it; the root's is `.`."""
        name, parent = self.scopes[scope].scope, self.scopes[scope].parent
        around = ROOT if parent == OUTSIDE else self.scopes[parent].scope
        return name if around == ROOT else name.removeprefix(around + ".")

    def lineage(self, item: int) -> Iterator[int]:
        """Give an item, the scope that it is in, and so on to the root."""
        while item != OUTSIDE:
            yield item
            item = self.parent[item]

    def levels(self) -> list[dict[tuple[int, int], list[int]]]:
        """Give the edges that the graph of each scope has: (source, target) to values.

        Source and target are children of the scope; what crosses its boundary comes from or leads to OUTSIDE. Takes
        time in the number of edges times the depth of the tree.
        """
        found: list[dict[tuple[int, int], dict[int, None]]] = [{} for _ in self.scopes]
        parent, depth = self.parent, [*self.depth, 0]  # OUTSIDE, the last, lies as deep as the root
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
        """Give the scope that an item is in, of what is outside and of the root itself OUTSIDE."""
        return OUTSIDE if item == OUTSIDE else self.parent[item]

    def shown(self, depth: int | None) -> list[int]:
        """Give what stands for each item where no more levels than `depth` are opened: itself, or a scope around it."""
        found: list[int] = []
        for item, around in enumerate(self.parent):
            hidden = depth is not None and self.depth[item] > depth
            found.append(found[around] if hidden else item)
        return found
