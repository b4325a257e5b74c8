"""A structure opened down to some depth, for formats that draw modules as boxes in boxes."""

from __future__ import annotations

from collections import defaultdict

from mxtools.views.structure import OUTSIDE, Structure


class Nesting:
    """What is drawn when so many levels of modules are open.

    `children`: scope to the items in it that something leads to or from; `opened`: the scopes whose children are shown;
    `edges`: pairs of what is shown; `ends`: the inputs and outputs of the model, numbered from -2 down, to their names.
    """

    def __init__(self, structure: Structure, depth: int | None) -> None:
        """Find what is shown; constants and what is computed from them are left out."""
        self.structure = structure
        self._count = len(structure.scopes)
        shown = structure.shown(depth)
        self.ends: dict[int, str] = {}
        self.children: dict[int, list[int]] = defaultdict(list)
        kept = {shown[item] for item in range(self._count, len(shown)) if not structure.node(item).constant}
        for item in sorted({at for end in kept for at in structure.lineage(end)}):
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
        self.ends = {at: structure.values[value].name for (_, value), at in numbers.items() if at in drawn}

    def label(self, item: int) -> tuple[str, ...]:
        """Give the lines of a box: of a module its name in the one around it and its class, of a node the operator."""
        if item >= self._count:
            return (self.structure.node(item).operator,)
        return self.structure.local(item), self.structure.scopes[item].class_name
