"""Which values are which, by the names of values and nodes that survived a tool.

    earlier   x ─ MatMul(w1) ─1─ Identity ─2─ MatMul(w2) ─3─ MatMul(w3) ─4─ Neg ─ y
    now       x ─ MatMul(w1) ─1───────────────MatMul(w2) ─2─ MatMul(w3) ─3─ Neg ─ y

    sizes     before: 1 and 2 are 2x4, 3 is 2x6, 4 is 2x3; now: 1 is 2x4, 2 is 2x6, 3 is 2x3

The obvious way, that values of the same name are the same, fails here: a tool removed the Identity and renumbered the
values, so what is 2 now was 3. But sizes contradict such names: 2 and 3 now have other sizes than before. If a quarter
of the names that both graphs have are contradicted, no name of a value is trusted at all, because among renumbered
names some always fit by chance. The names of inputs, outputs and weights are trusted one by one (`fixed`), since no
tool gives these to something else. The names of nodes are trusted if the operator is the same (`made`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator

from mxtools.files.weights import is_same
from mxtools.graph.index import NOWHERE, Graph
from mxtools.graph.operators import operator_key
from mxtools.graph.shapes import Shapes, TensorShape, stored_shape
from mxtools.matching.clamped_values import through_clamps
from mxtools.matching.correspondence import ValueMatches
from mxtools.pipeline.working_model import WorkingModel

MOST_CONTRADICTED = 0.25
"""The share of contradicted names from which on all names count as renumbered.

If a tool keeps names, only a few are contradicted, such as those of values whose type it changed. If it renumbers,
nearly all names behind the first node that it removed mean something else, and many of their values have another size.
"""


QUANTISED = "_quantized"
"""What ONNX Runtime appends to the name of a value that it quantises, if operators work on quantised numbers."""
_PACKED = re.compile(r"_Q\d+$")
"""What ONNX Runtime appends to the name of a weight that it packs into fewer bits: `dense.weight_Q4`."""


INSERTED_CAST = "InsertedPrecisionFreeCast_"
"""What ONNX Runtime puts in front of the name of a value in half precision for its copy in single precision.

It then removes the casts, so that often only the copy is left.
"""


def name_before(name: str) -> str:
    """Return the name that a weight had before ONNX Runtime quantised or packed it, if it did."""
    return _PACKED.sub("", name.removesuffix(QUANTISED))


class SurvivingNames:
    """Values that have the name of an earlier value, and nodes that have the name of an earlier node.

    Attributes: `named`, the values with the earlier values of the same name; `nodes`, the same for nodes.
    """

    def __init__(self, model: WorkingModel, previous: WorkingModel) -> None:
        """Take a model and the earlier one."""
        self.graph, self.shapes, self.weights = model.graph, model.shapes, model.weights
        self.earlier, self.earlier_weights = previous.graph, previous.weights
        self.earlier_shapes = previous.shapes
        self.named = _same_names(_without_casts(self.graph), self.earlier.names)
        self.nodes = _same_names((n.name for n in self.graph.nodes), (n.name for n in self.earlier.nodes))

    def fixed(self) -> ValueMatches:
        """Return the inputs, outputs and weights with the same name: no tool gives such a name to something else."""
        mine = {*self.graph.inputs, *self.graph.outputs, *self.graph.stored}
        found = {v: (other,) for v, other in self.named.items() if v in mine and self.fits(v, other)}
        return {**found, **self._inputs_in_order()}

    def _inputs_in_order(self) -> ValueMatches:
        """Return the inputs with those in the same place, if all have new names; nothing if they cannot be the same."""
        mine, its = ([v for v in graph.inputs if v not in graph.stored] for graph in (self.graph, self.earlier))
        if len(mine) != len(its) or any(self.graph.names[value] in self.earlier.by_name for value in mine):
            return {}
        pairs = [*zip(mine, its, strict=True)]
        is_same = all(self.fits(v, other) and not self._is_turned(v, other) for v, other in pairs)
        return {v: (other,) for v, other in pairs} if is_same else {}

    def values(self) -> ValueMatches:
        """Return the values with the same name that can be the same; none at all if the names were renumbered."""
        found = {v: (other,) for v, other in self.named.items() if not self._contradicts(v, other)}
        contradicted = len(self.named) - len(found)
        return found if contradicted < MOST_CONTRADICTED * len(self.named) else {}

    def made(self) -> ValueMatches:
        """Return the results of nodes with the same name and operator, in order, if they make equally many values."""
        found = {}
        for node, twin in self.nodes.items():
            mine, its = self.graph.writes[node], self.earlier.writes[twin]
            if len(mine) == len(its) and self.graph.has_same_operator(node, self.earlier, twin):
                pairs = zip(mine, its, strict=True)
                found.update({v: (o,) for v, o in pairs if self.fits(v, o) and not self._is_turned(v, o)})
        return found

    def quantised(self) -> ValueMatches:
        """Return the values that are quantised now: ONNX Runtime names them after the earlier ones, `x_quantized`.

        A weight that it packed into 4 bits is called `w_Q4`.
        If there was a Relu behind the earlier value and it is gone, the quantisation does its work too, because the
        numbers begin at zero. The value then stands for what the Relu made.
        """
        found = {}
        kept = {self.graph.nodes[node].name for node in self.nodes}
        for value, name in enumerate(self.graph.names):
            base = name_before(name) if value in self.graph.initializers else name.removesuffix(QUANTISED)
            if base != name and base in self.earlier.by_name and base not in self.graph.by_name:
                found[value] = (through_clamps(self.earlier, self.earlier.by_name[base], kept),)
        return found

    def _contradicts(self, value: int, other: int) -> bool:
        """Return whether values with one name cannot be the same: their sizes differ, or the weights they are made of.

        The weights are compared only if the operator is the same; otherwise a tool may have fused nodes.
        """
        if not self.fits(value, other) or (value not in self.graph.stored and self._is_turned(value, other)):
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
        """Return whether values can be the same: they have the same kind and number of elements, if both are known."""
        mine, its = _shape(self.graph, self.shapes, value), _shape(self.earlier, self.earlier_shapes, other)
        if mine is None or its is None:
            return True
        return mine.kind == its.kind and (mine.count == its.count or None in (mine.count, its.count))

    def _is_turned(self, value: int, other: int) -> bool:
        """Return whether a value has the dimensions of an earlier one in another order.

        A tool that moves a Transpose past a node leaves the node its name: `Add` makes 1x8x8x16 now, 1x16x8x8 before.
        """
        mine, its = _shape(self.graph, self.shapes, value), _shape(self.earlier, self.earlier_shapes, other)
        return bool(mine and its and mine.has_other_order(its.dims))


def _shape(graph: Graph, shapes: Shapes, value: int) -> TensorShape | None:
    """Return the known shape of a value, which can be a weight or computed."""
    tensor = graph.initializers.get(value)
    return stored_shape(tensor) if tensor is not None else shapes[value]


def _without_casts(graph: Graph) -> Iterator[str]:
    """Yield the names of a graph's values, those of copies in single precision as they were before, if still free."""
    for name in graph.names:
        plain = name.removeprefix(INSERTED_CAST)
        yield name if plain in graph.by_name else plain


def _same_names(mine: Iterable[str], its: Iterable[str]) -> dict[int, int]:
    """Return the names that are in both lists exactly once: their places in the first and in the second."""
    mine, its = list(mine), list(its)
    once, there = Counter(mine), Counter(its)
    places = {name: place for place, name in enumerate(its) if there[name] == 1}
    return {place: places[name] for place, name in enumerate(mine) if name and once[name] == 1 and name in places}
