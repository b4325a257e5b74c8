"""The signature of a module call: which values of a graph are the arguments and results of its `forward`, by name.

Five nodes, of which the first four belong to the call `attention`; `forward(hidden_states)` returned (`context`,
`scores`):

    h -> MatMul -> m -> Softmax -> p -> MatMul(p, h) -> c -> Transpose -> t -> Reshape -> z

The obvious way is to take the call's boundary tensors in order. This gives only `t`, which the rest of the graph reads:
`scores`, which the model threw away, is missing, and exporters do not keep the order either. With recorded values, each
traced tensor is looked up among the values of the graph: `scores` is `p`, whoever reads it, and `context` is `c` and
not `t`, which has the elements of `c` in another order.

Without recorded values, the trace still says which calls returned a tensor, and its shape. The result is then one of
the values of this shape that the innermost of these calls made: the last one, because a call returns what it computed
last. If several values fit, this can be wrong; with recorded values it cannot.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from mxtools.errors import AbsentError
from mxtools.graph.index import NOWHERE
from mxtools.graph.rename import fresh
from mxtools.graph.shapes import Shapes
from mxtools.scopes.annotations import Annotations
from mxtools.traces.traced_calls import calls_making, calls_returning, returned_tensors

if TYPE_CHECKING:
    from mxtools.traces.sidecar import Sidecar, TracedTensor

Matches = Mapping[int, Sequence[int]]
"""The values of the graph that equal each traced tensor, by its id, in the order in which the graph makes them."""


class Signature:
    """Finds the values of a graph that are the inputs and outputs of one traced call.

    With matches it compares values; without, it goes by who made a tensor, by shapes and by order.
    """

    def __init__(
        self, annotations: Annotations, shapes: Shapes, sidecar: Sidecar, call: int, matches: Matches | None
    ) -> None:
        """Take what is known of nodes, shapes and calls, and the number of the call in the trace."""
        self._annotations, self._shapes, self._sidecar = annotations, shapes, sidecar
        self._graph, self._hierarchy = annotations.graph, annotations.hierarchy
        self._call, self._matches = call, matches
        self._given = {tensor.id: tensor for tensor in reversed(sidecar.calls[call].inputs)}
        self._makers = {tensor: [call] for tensor, call in calls_making(sidecar).items()} | calls_returning(sidecar)

    def outputs(self) -> dict[int, str]:
        """Return the values that the call returned, in order, and those that left it in other ways, with names.

        Arguments that it returned unchanged are left out. Raises AbsentError if the graph lacks a value that it
        returned.
        """
        found: dict[int, str] = {}
        for tensor in returned_tensors(self._sidecar.calls[self._call]):
            value = self._made(tensor, found)
            if value is None:
                raise AbsentError(
                    f"{self._hierarchy.scopes[self._call]} returned {tensor.name!r}, but none of its nodes makes that",
                    "the exporter changed the end of the module: give ⟨io-tensors⟩",
                )
            found[value] = tensor.name
        taken = {tensor.name for tensor in self._given.values()}
        for value, name in zip(found, _plain(found.values()), strict=True):
            found[value] = fresh(name, taken)
            taken.add(found[value])
        for tensor in self._sidecar.calls[self._call].leaves:
            if (value := self._made(tensor, found)) is not None:
                found[value] = fresh(tensor.name, taken)
                taken.add(found[value])
        return found

    def inputs(self, values: Iterable[int]) -> dict[int, str]:
        """Return those of the values that are the call's arguments, with their names; each argument has one value."""
        left = dict(self._given)
        found: dict[int, str] = {}
        for value in values:
            tensor = self._taken(value, left)
            if tensor is not None:
                found[value] = left.pop(tensor.id).name
        return found

    def _made(self, tensor: TracedTensor, taken: Collection[int]) -> int | None:
        """Return the value, made within the call, that is a returned tensor; the last one of those that fit best."""
        if self._matches is not None:
            made = [v for v in self._matches.get(tensor.id, ()) if v not in taken and self._is_inside(v)]
            return next((v for v in made if not ((s := self._shapes[v]) and s.is_transposed(tensor))), None)
        inner = [c for c in self._makers.get(tensor.id, ()) if self._hierarchy.within(c, self._call)]
        maker = max(inner, key=self._hierarchy.depth.__getitem__, default=self._call)
        fitting = [
            v
            for n, call in enumerate(self._annotations.call)
            if call is not None and self._graph.owner[n] == NOWHERE and self._hierarchy.within(call, maker)
            for v in self._graph.writes[n]
            if v not in taken and (shape := self._shapes[v]) and shape.fits(tensor)
        ]
        return max(
            fitting,
            key=lambda v: (self._annotations.is_read_outside(v, maker), self._has_shape(v, tensor), v),
            default=None,
        )

    def _taken(self, value: int, left: Mapping[int, TracedTensor]) -> TracedTensor | None:
        """Return which of the remaining arguments a value is, by its elements, its name, or the call that made it."""
        if self._matches is not None:
            return next((t for t in left.values() if value in self._matches.get(t.id, ())), None)
        name = self._graph.names[value]
        same_name = {t.id for t in self._sidecar.model.inputs if t.name == name}
        fitting = [t for t in left.values() if (shape := self._shapes[value]) and shape.fits(t)]
        call = self._call_making(value)
        lineage = set() if call is None else set(self._hierarchy.lineage(call))
        ranked = [t for t in fitting if t.id in same_name] or [
            t for t in fitting if lineage.intersection(self._makers.get(t.id, ()))
        ]
        exact = [t for t in ranked or fitting if self._has_shape(value, t)] or ranked or fitting
        return exact[0] if ranked or len(exact) == 1 else None

    def _call_making(self, value: int) -> int | None:
        """Return the call whose node makes a value; None if no node makes it, or nothing is known of the node."""
        node = self._graph.producer[value]
        return self._annotations.call[node] if node != NOWHERE else None

    def _is_inside(self, value: int) -> bool:
        """Return whether a value is made within the call."""
        maker = self._call_making(value)
        return maker is not None and self._hierarchy.within(maker, self._call)

    def _has_shape(self, value: int, tensor: TracedTensor) -> bool:
        shape = self._shapes[value]
        return shape is not None and shape.dims == tensor.shape


def _plain(names: Collection[str]) -> list[str]:
    """Return names for results: `output_0`, `output_1` … for those of a tuple, `output` for a single tensor."""
    single = "output" if len(names) == 1 else "output_{}"
    return [single.format(name) if name.isdecimal() else name for name in names]
