"""What the names of values and nodes that survived a tool say of which values are which."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from mxtools.files.weights import is_same
from mxtools.graph.index import NOWHERE, Graph
from mxtools.graph.operators import operator_key
from mxtools.graph.shapes import Shaped, Shapes, of_tensor
from mxtools.matching.correspondence import ValueMatches, is_same_operator
from mxtools.pipeline.working_model import WorkingModel


class SurvivingNames:
    """Values that bear the name of an earlier value, and nodes that bear the name of an earlier node."""

    def __init__(self, model: WorkingModel, previous: WorkingModel) -> None:
        """Take a model and the earlier one."""
        self.graph, self.shapes, self.weights = model.graph, model.shapes, model.weights
        self.earlier, self.earlier_weights = previous.graph, previous.weights
        self.earlier_shapes = previous.shapes
        self.named = _shared(self.graph.names, self.earlier.names)
        self.nodes = _shared((n.name for n in self.graph.nodes), (n.name for n in self.earlier.nodes))

    def fixed(self) -> ValueMatches:
        """Give inputs and outputs of the models and their weights, which no tool names after others."""
        mine = {*self.graph.inputs, *self.graph.outputs, *self.graph.stored}
        return {v: (other,) for v, other in self.named.items() if v in mine and self.fits(v, other)}

    def values(self) -> ValueMatches:
        """Give the values of the same name; none at all where a tool numbered them anew, as their makers tell."""
        found = {v: (other,) for v, other in self.named.items() if not self._contradicts(v, other)}
        return found if 4 * (len(self.named) - len(found)) < len(self.named) else {}

    def made(self) -> ValueMatches:
        """Give what nodes of the same name and operator make, in order, where they make as much."""
        found = {}
        for node, twin in self.nodes.items():
            mine, its = self.graph.writes[node], self.earlier.writes[twin]
            if len(mine) == len(its) and is_same_operator(self.graph.nodes[node], self.earlier.nodes[twin]):
                found.update({v: (other,) for v, other in zip(mine, its, strict=True) if self.fits(v, other)})
        return found

    def _contradicts(self, value: int, other: int) -> bool:
        """Tell whether values of one name cannot be the same: their sizes differ, or the weights they come from."""
        if not self.fits(value, other):
            return True
        node, twin = self.graph.producer[value], self.earlier.producer[other]
        if NOWHERE in (node, twin) or operator_key(self.graph.nodes[node]) != operator_key(self.earlier.nodes[twin]):
            return False
        pairs = zip(self.graph.reads[node], self.earlier.reads[twin], strict=False)
        return any(self.named.get(v, o) != o and self._is_other_weight(v, o) for v, o in pairs)

    def _is_other_weight(self, value: int, other: int) -> bool:
        mine, its = self.graph.initializers.get(value), self.earlier.initializers.get(other)
        if mine is None or its is None:
            return False
        return not is_same(mine, self.weights, its, self.earlier_weights)

    def fits(self, value: int, other: int) -> bool:
        """Tell whether values can be the same: of the same kind and number of elements, as far as both are known."""
        mine, its = _shape(self.graph, self.shapes, value), _shape(self.earlier, self.earlier_shapes, other)
        if mine is None or its is None:
            return True
        return mine.kind == its.kind and (mine.count == its.count or None in (mine.count, its.count))


def _shape(graph: Graph, shapes: Shapes, value: int) -> Shaped | None:
    """Give what is known of a value, a weight or one that is computed."""
    tensor = graph.initializers.get(value)
    return of_tensor(tensor) if tensor is not None else shapes[value]


def _shared(mine: Iterable[str], its: Iterable[str]) -> dict[int, int]:
    """Give the places of the names that stand once in both lists, in the one with that in the other."""
    mine, its = list(mine), list(its)
    once, there = Counter(mine), Counter(its)
    places = {name: place for place, name in enumerate(its) if there[name] == 1}
    return {place: places[name] for place, name in enumerate(mine) if name and once[name] == 1 and name in places}
