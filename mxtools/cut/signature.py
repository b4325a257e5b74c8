"""The signature of a module call: which values of a graph are what its `forward` was given and returned, by name."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from mxtools.errors import AbsentError
from mxtools.graph.index import NOWHERE
from mxtools.graph.rename import fresh
from mxtools.graph.shapes import Shapes
from mxtools.scopes.annotations import Annotations
from mxtools.traces.sidecar import Sidecar, Tensor, makers, returned

Matches = Mapping[int, Sequence[int]]
"""Ids of traced tensors to the values that equal them, in the order in which these are made."""


class Signature:
    """Finds the values of a graph that are the inputs and outputs of one traced call.

    With matches it is told by values; without, by who made a tensor, shapes and order.
    """

    def __init__(
        self, annotations: Annotations, shapes: Shapes, sidecar: Sidecar, call: int, matches: Matches | None
    ) -> None:
        """Take what is known of the nodes, and the number of the call."""
        self._annotations, self._shapes, self._sidecar = annotations, shapes, sidecar
        self._graph, self._hierarchy = annotations.graph, annotations.hierarchy
        self._call, self._matches = call, matches
        self._given = {tensor.id: tensor for tensor in reversed(sidecar.calls[call].inputs)}
        self._makers = makers(sidecar)

    def outputs(self) -> dict[int, str]:
        """Give the values that the call returned, with their names, in its order; what it was given is left out.

        Raises AbsentError where the graph has no such value.
        """
        found: dict[int, str] = {}
        for tensor in returned(self._sidecar.calls[self._call]):
            value = self._made(tensor, found)
            if value is None:
                raise AbsentError(
                    f"{self._hierarchy.scopes[self._call]} returned {tensor.name!r}, which no node of it makes",
                    "the exporter changed its end, give --io tensors",
                )
            found[value] = tensor.name
        taken = {tensor.name for tensor in self._given.values()}
        for value, name in zip(found, _plain(found.values()), strict=True):
            found[value] = fresh(name, taken)
            taken.add(found[value])
        return found

    def inputs(self, values: Iterable[int]) -> dict[int, str]:
        """Give the names of those of some values that the call was given; each name once."""
        left = dict(self._given)
        found: dict[int, str] = {}
        for value in values:
            tensor = self._taken(value, left)
            if tensor is not None:
                found[value] = left.pop(tensor.id).name
        return found

    def _made(self, tensor: Tensor, taken: Collection[int]) -> int | None:
        """Give the value of a node within the call that is a returned tensor: the last that fits best."""
        inner = [c for c in self._makers.get(tensor.id, ()) if self._hierarchy.within(c, self._call)]
        maker = max(inner, key=self._hierarchy.depth.__getitem__)
        if self._matches is not None:
            made = [v for v in self._matches.get(tensor.id, ()) if v not in taken and self._is_within(v, self._call)]
            return next((v for v in made if not ((s := self._shapes[v]) and s.is_transposed(tensor))), None)
        fitting = [
            v
            for n, at in enumerate(self._annotations.call)
            if at is not None and self._graph.owner[n] == NOWHERE and self._hierarchy.within(at, maker)
            for v in self._graph.writes[n]
            if v not in taken and (shape := self._shapes[v]) and shape.fits(tensor)
        ]
        return max(
            fitting, key=lambda v: (self._annotations.leaves(v, maker), self._has_shape(v, tensor), v), default=None
        )

    def _taken(self, value: int, left: Mapping[int, Tensor]) -> Tensor | None:
        """Give the tensor of those left that a value is: by its values, its name, or by who made it."""
        if self._matches is not None:
            return next((t for t in left.values() if value in self._matches.get(t.id, ())), None)
        name = self._graph.names[value]
        model = {t.id for t in self._sidecar.model.inputs if t.name == name}
        fitting = [t for t in left.values() if (shape := self._shapes[value]) and shape.fits(t)]
        node = self._graph.producer[value]
        at = self._annotations.call[node] if node != NOWHERE else None
        above = set() if at is None else set(self._hierarchy.lineage(at))
        ranked = [t for t in fitting if t.id in model] or [
            t for t in fitting if above.intersection(self._makers.get(t.id, ()))
        ]
        exact = [t for t in ranked or fitting if self._has_shape(value, t)] or ranked or fitting
        return exact[0] if ranked or len(exact) == 1 else None

    def _is_within(self, value: int, call: int) -> bool:
        node = self._graph.producer[value]
        at = self._annotations.call[node] if node != NOWHERE else None
        return at is not None and self._hierarchy.within(at, call)

    def _has_shape(self, value: int, tensor: Tensor) -> bool:
        shape = self._shapes[value]
        return shape is not None and shape.dims == tensor.shape


def _plain(names: Collection[str]) -> list[str]:
    """Give names for results: of a tuple, `output_0`, `output_1` …, of a single tensor `output`."""
    single = "output" if len(names) == 1 else "output_{}"
    return [single.format(name) if name.isdecimal() else name for name in names]
