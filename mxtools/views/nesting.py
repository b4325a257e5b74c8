"""What is drawn in formats that show modules as boxes in boxes, opened down to some depth.

Five nodes, of which MatMul and Add belong to the call `block`:

    x -> Cast -> MatMul (block) -> Add (block) -> Relu -> y

At depth 0 only the root is open. Cast, Relu and one box for `block` are drawn, and the edges of MatMul and Add end at
the box. The edge from MatMul to Add would lead from the box to itself and is left out. At depth 1 the box is open and
contains both nodes. Two obvious ways fail: leaving out the nodes below the depth together with their edges would tear
the graph apart, and keeping one edge for each pair of nodes would draw hundreds between two boxes. So edges with equal
ends become one.
"""

from __future__ import annotations

from collections import defaultdict

from mxtools.views.structure import OUTSIDE, Structure


class Nesting:
    """What is drawn if a number of levels of modules are open.

    Attributes: `children`, the items in each scope, without scopes of constants only; `opened`, the scopes whose
    children are drawn; `edges`, pairs of drawn items; `ends`, the names of the model's inputs and outputs, which have
    the numbers -2, -3 … in `edges`.
    """

    def __init__(self, structure: Structure, depth: int | None) -> None:
        """Find what is drawn; constants and what is computed from them are left out."""
        self.structure = structure
        self._count = len(structure.scopes)
        shown = structure.shown(depth)
        self.ends: dict[int, str] = {}
        self.children: dict[int, list[int]] = defaultdict(list)
        kept = {shown[item] for item in range(self._count, len(shown)) if not structure.node(item).constant}
        for item in sorted({around for end in kept for around in structure.lineage(end)}):
            if item:
                self.children[structure.parent[item]].append(item)
        self.opened = set(self.children)
        numbers: dict[tuple[bool, int], int] = {}
        pairs: dict[tuple[int, int], None] = {}
        for edge in structure.edges:
            source, target = (
                shown[end] if end != OUTSIDE else numbers.setdefault((out, edge.value), OUTSIDE - 1 - len(numbers))
                for out, end in ((False, edge.source), (True, edge.target))
            )
            if source != target and all(end < 0 or end in kept for end in (source, target)):
                pairs[source, target] = None
        self.edges = list(pairs)
        drawn = {end for pair in pairs for end in pair}
        self.ends = {end: structure.values[value].name for (_, value), end in numbers.items() if end in drawn}

    def label(self, item: int) -> tuple[str, ...]:
        """Return the lines of a box: a module's local name and its class, or a node's operator."""
        if item >= self._count:
            return (self.structure.node(item).operator,)
        return self.structure.local(item), self.structure.scopes[item].class_name
