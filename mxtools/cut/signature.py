"""The signature of a module call: which values of a graph are the arguments and results of its `forward`, by name.

Five nodes, of which the first four belong to the call `attention`; `forward(hidden_states)` returned (`context`,
`scores`):

    h -> MatMul -> m -> Softmax -> p -> MatMul(p, h) -> c -> Transpose -> t -> Reshape -> z

The obvious way is to take the call's boundary tensors in order. This gives only `t`, which the rest of the graph reads:
`scores`, which the model threw away, is missing, and exporters do not keep the order either. With recorded values, each
traced tensor is looked up among the values of the graph: `scores` is `p`, whoever reads it, and `context` is `c` and
not `t`, which has the elements of `c` in another order.

Without recorded values, the trace still says which call made a tensor, who used it, and its shape. A result is one of
the values of this shape that nodes of this call make. If something outside used it, something outside reads it; if not,
a node with the name of its operation makes it. Where several values are left, `clues` decide, and where these do not,
the module is refused: a wrong name is worse than none. An argument then keeps the name of its tensor.

In a quantised file no value equals a recorded one. There the rules without values find it too, but what they find must
be near the recorded one. Where numbers are exact they must equal it: a value that is only similar is another one, such
as the sum with a small residual.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from mxtools.cut.clues import Clues
from mxtools.errors import AbsentError, MxError
from mxtools.graph.index import NOWHERE
from mxtools.graph.rename import fresh
from mxtools.graph.shapes import known_shape, torch_kind
from mxtools.graph.types import is_quantised
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes.annotations import INDIRECT
from mxtools.traces.traced_calls import returned_tensors

if TYPE_CHECKING:
    from mxtools.traces.sidecar import Sidecar, TracedTensor

Matches = Mapping[int, Sequence[int]]
"""The values of the graph that equal each traced tensor, by its id, in the order in which the graph makes them."""


class Signature:
    """Finds the values of a graph that are the inputs and outputs of one traced call.

    With matches it compares values first; without, it goes by who made a tensor, by shapes and by clues.
    """

    def __init__(self, model: WorkingModel, sidecar: Sidecar, call: int, matches: Matches | None) -> None:
        """Take a model, whose recorded values gave the matches, its trace, and the number of the call in that."""
        self._model, self._annotations, self._shapes = model, model.annotations, model.shapes
        self._graph, self._within = model.graph, self._annotations.hierarchy.within
        self._sidecar, self._call, self._matches = sidecar, call, matches
        self._given = {tensor.id: tensor for tensor in reversed(sidecar.calls[call].inputs)}
        self._clues = Clues(self._annotations, sidecar)

    def outputs(self) -> dict[int, str]:
        """Return the values that the call returned, in order, and those that left it in other ways, with names.

        Arguments that it returned unchanged are left out. Raises AbsentError if the graph lacks a value that it
        returned, or nothing decides which one it is.
        """
        returned, leaves = returned_tensors(self._sidecar.calls[self._call]), self._sidecar.calls[self._call].leaves
        made = self._made((*returned, *leaves))
        missing = next((tensor for tensor in reversed(returned) if tensor.id not in made), None)
        if missing is not None:
            raise self._refusal(missing)
        found = {made[tensor.id]: tensor.name for tensor in returned}
        taken = {tensor.name for tensor in self._given.values()}
        for value, name in zip(found, _plain(found.values()), strict=True):
            found[value] = fresh(name, taken)
            taken.add(found[value])
        for tensor in (t for t in leaves if t.id in made and made[t.id] not in found):
            found[made[tensor.id]] = fresh(tensor.name, taken)
            taken.add(found[made[tensor.id]])
        return found

    def inputs(self, values: Iterable[int]) -> dict[int, str]:
        """Return those of the values that are the call's arguments, with their names; each argument has one value."""
        values, tensors = list(values), list(self._given.values())
        candidates = {t.id: {v for v in values if self._can_be_given(v, t)} for t in tensors}
        names = {value: self._given[tensor].name for tensor, value in self._pairs(tensors, values, candidates).items()}
        return {value: names[value] for value in values if value in names}

    def _made(self, tensors: Sequence[TracedTensor]) -> dict[int, int]:
        """Return the values, made within the call, that are some traced tensors, by their ids."""
        inside = [value for node in self._inside for value in self._graph.writes[node]]
        return self._pairs(tensors, inside, {tensor.id: self._candidates(tensor) for tensor in tensors})

    def _pairs(
        self, tensors: Sequence[TracedTensor], values: Collection[int], candidates: Mapping[int, set[int]]
    ) -> dict[int, int]:
        """Return which of some values each tensor is, by its id: the equal one, else the one that clues pair with it.

        A value that equals any tensor is none of the candidates for others.
        """
        found = self._equal(tensors, values)
        known = {value for equal in (self._matches or {}).values() for value in equal}
        left = self._near({tensor: at - known for tensor, at in candidates.items() if tensor not in found})
        return found | self._clues.pairs(left)

    def _equal(self, tensors: Iterable[TracedTensor], values: Collection[int]) -> dict[int, int]:
        """Return the first of some values that equals each traced tensor in a run, by ids; each value once."""
        found: dict[int, int] = {}
        allowed, taken = set(values), set[int]()
        for tensor in tensors:
            for value in (self._matches or {}).get(tensor.id, ()):
                shape = self._shapes[value]
                if value in allowed and value not in taken and not (shape and shape.is_transposed(tensor)):
                    found[tensor.id] = value
                    taken.add(value)
                    break
        return found

    def _near(self, candidates: dict[int, set[int]]) -> Mapping[int, Collection[int]]:
        """Return those of the candidates that are near the recorded tensors; all of them if nothing was recorded."""
        if self._matches is None or self._model.values is None or not any(candidates.values()):
            return candidates
        from mxtools.matching.traced_values import near_values

        return near_values(self._model, self._sidecar, self._model.values, candidates)

    @cached_property
    def _inside(self) -> list[int]:
        """The nodes within the call that are in the main graph."""
        call_of = self._annotations.call
        return [n for n in self._graph.main if (at := call_of[n]) is not None and self._within(at, self._call)]

    def _candidates(self, tensor: TracedTensor) -> set[int]:
        """Return the values that may be a tensor that left the call, by its shape, its maker, and its use outside.

        If a value equals it in a run, there are no others.
        """
        if tensor.id in (self._matches or {}):
            return set()
        clues, call = self._clues, self._clues.maker(tensor.id)
        around = (self._call, self._call if call is None else call)
        left = [outer for outer in around if clues.is_used_outside(tensor.id, outer)]
        fitting = {
            value
            for node in (self._inside if call is None or self._within(call, self._call) else ())
            if call is None or self._is_maker(node, call, tensor)
            for value in self._graph.writes[node]
            if (shape := self._shapes[value]) and shape.fits(tensor)
            if (clues.is_read_outside(value, left[0]) if left else clues.is_made_alike(value, tensor.id))
            if clues.depends_alike(value, tensor.id)
        }
        return {v for v in fitting if (shape := self._shapes[v]) and shape.agrees(tensor)} or fitting

    def _is_maker(self, node: int, call: int, tensor: TracedTensor) -> bool:
        """Return whether a node of a call, or of one inside it, may make a tensor that the call made.

        A node that the exporter puts into a call inside makes what that returned, unless this equals the tensor.
        """
        at = self._annotations.call[node]
        if at is None or at == call or not self._within(at, call):
            return at == call
        return self._annotations.evidence[node] in INDIRECT or at in map(self._clues.maker, self._clues.equal(tensor))

    def _can_be_given(self, value: int, tensor: TracedTensor) -> bool:
        """Return whether a value may be an argument: it has its shape, and its name or the call that made it."""
        shape, graph, clues = self._shapes[value], self._graph, self._clues
        if shape is None or not shape.fits(tensor):
            return False
        equal, names = clues.equal(tensor), {t.id: t.name for t in self._sidecar.model.inputs}
        makers = {maker: each for each in equal if (maker := clues.maker(each)) is not None}
        is_open = not makers and equal.isdisjoint(names)
        while (node := graph.producer[value]) != NOWHERE:
            call = self._annotations.call[node]
            if is_open or call is None or (call in makers and clues.depends_alike(value, makers[call])):
                return True
            if not (graph.operators[node].keeps_numbers and graph.reads[node]):
                return False
            value = graph.reads[node][0]
        name = graph.names[value]
        return any(names.get(each) == name for each in equal) if name in names.values() else not makers

    def _refusal(self, tensor: TracedTensor) -> MxError:
        """Return the error for a result that the graph lacks, or for which nothing decides among its values."""
        returned = f"{self._annotations.hierarchy.scopes[self._call]} returned {tensor.name!r}"
        candidates = self._candidates(tensor)
        if not candidates and self._is_quantised(tensor):
            return AbsentError(f"{returned}, which the graph has only as quantised numbers", "give ⟨io-tensors⟩")
        if not candidates:
            changed = "the exporter or a tool changed the end of the module: give ⟨io-tensors⟩"
            return AbsentError(f"{returned}, but none of its nodes makes that", changed)
        if self._matches is not None and not self._near({tensor.id: candidates})[tensor.id]:
            other = "give a trace without recorded values, or ⟨io-tensors⟩"
            return AbsentError(f"{returned}, but in a run none of its values is near that", other)
        record = "" if self._model.values else "make the trace with ⟨record⟩, or "
        return AbsentError(f"{returned}, but nothing decides which value that is", f"{record}give ⟨io-tensors⟩")

    def _is_quantised(self, tensor: TracedTensor) -> bool:
        """Return whether quantised numbers of a tensor's shape leave the call; ONNX Runtime knows more types."""
        from mxtools.runtime.sessions import runtime_infos

        made = (value for node in self._inside for value in self._graph.writes[node])
        leaving = [value for value in made if self._clues.is_read_outside(value, self._call)]
        unknown = [self._graph.names[v] for v in leaving if self._shapes[v] is None]
        infos = runtime_infos(self._model.proto, self._model.weights, unknown) if unknown else {}
        shapes = (self._shapes[v] or known_shape(infos.get(self._graph.names[v])) for v in leaving)
        small = (replace(s, kind=torch_kind(tensor.dtype)) for s in shapes if s and is_quantised(s.element))
        return any(shape.fits(tensor) for shape in small)


def _plain(names: Collection[str]) -> list[str]:
    """Return names for results: `output_0`, `output_1` … for those of a tuple, `output` for a single tensor."""
    single = "output" if len(names) == 1 else "output_{}"
    return [single.format(name) if name.isdecimal() else name for name in names]
