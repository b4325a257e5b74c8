"""The own error of each module: it is cut out of the graph and fed what PyTorch's module was fed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from onnx import ModelProto

from mxtools.cut.cut import Cut, extracted
from mxtools.cut.surroundings import GivenNodes
from mxtools.errors import AbsentError, InputError, UsageError
from mxtools.graph.shapes import Array
from mxtools.graph.walk import nodes_behind
from mxtools.pipeline.working_model import WorkingModel
from mxtools.runtime.distance import UNLIKE, Distance, worst
from mxtools.runtime.sessions import batches, run_model
from mxtools.scopes.selection import nodes_of
from mxtools.traces.traced_calls import call_ends, returned_tensors
from mxtools.verify.output_matches import OutputMatch, OutputMatches

if TYPE_CHECKING:
    from mxtools.traces.sidecar import Call, Sidecar, TracedTensor


class Isolation:
    """Runs the modules of a graph one by one, each on its own."""

    def __init__(self, model: WorkingModel, sidecar: Sidecar, matches: OutputMatches) -> None:
        """Cut out every call that has nodes which make what it returned."""
        self._model, self._weights, self._matches = model, model.weights, matches
        self._annotations, self._shapes = model.annotations, model.shapes
        self._graph, self._calls = model.graph, sidecar.calls
        self._cuts = {number: cut for number, end in enumerate(call_ends(sidecar)) if (cut := self._cut(number, end))}

    def errors(self, given: Mapping[str, Array]) -> Iterator[tuple[int, Distance | InputError]]:
        """Yield the own error of each call, or why it does not run; `given` are the graph's inputs.

        Inputs of a call that no module returned, such as the sum of two results, are computed from what modules
        returned. Only the inputs of some calls are in memory at a time.
        """
        names = self._graph.names
        parts = extracted(self._model.proto, list(self._cuts.values()), self._weights)
        sizes = {number: sum(map(self._bytes, cut.inputs)) for number, cut in self._cuts.items()}
        for numbers in batches(sizes):
            wanted = dict.fromkeys(v for number in numbers for v in self._cuts[number].inputs)
            inputs = {v: given[names[v]] for v in wanted if names[v] in given} | self._recorded(wanted)
            inputs |= self._between([v for v in wanted if v not in inputs], given)
            for number, part in zip(numbers, parts, strict=False):
                try:
                    yield number, self._own(number, part, inputs)
                except InputError as error:
                    yield number, error

    def _cut(self, number: int, end: int) -> Cut | None:
        """Cut a call out, with the outputs that it returned; return None where no node of its own makes any."""
        try:
            chosen = nodes_of(self._annotations, range(number, end))
        except (AbsentError, UsageError):
            return None
        made = {v for node in chosen for v in self._graph.writes[node]}
        outputs = [match.value for _, match in self._outputs(self._calls[number]) if match.value in made]
        return Cut(self._graph, chosen, GivenNodes(self._annotations, chosen), outputs) if outputs else None

    def _bytes(self, value: int) -> int:
        shape = self._shapes[value]
        return 8 * (shape.count or 0) if shape else 0

    def _outputs(self, call: Call) -> list[tuple[TracedTensor, OutputMatch]]:
        return [(tensor, match) for tensor in returned_tensors(call) if (match := self._matches[tensor.id])]

    def _recorded(self, values: Iterable[int]) -> dict[int, Array]:
        return {v: array for v in values if (array := self._matches.recorded(v)) is not None}

    def _between(self, values: Collection[int], given: Mapping[str, Array]) -> dict[int, Array]:
        """Compute values from recorded ones and from the graph's inputs, by the nodes between."""
        nodes = nodes_behind(self._graph, values, until=self._matches.tensor_at.__contains__)
        if not nodes:
            return {}
        others = {self._graph.producer[v] for v in self._matches.tensor_at}
        cut, names = Cut(self._graph, nodes, others - nodes, values), self._graph.names
        (part,) = extracted(self._model.proto, [cut], self._weights)
        inputs = dict(given) | {names[v]: array for v, array in self._recorded(cut.inputs).items()}
        results = run_model(part, self._weights, inputs)
        return {v: results[names[v]] for v in values}

    def _own(self, number: int, part: ModelProto, inputs: Mapping[int, Array]) -> Distance:
        """Run a part and return its error; a value that it may share with a module without nodes can be of either."""
        cut, names = self._cuts[number], self._graph.names
        results = run_model(part, self._weights, {names[v]: inputs[v] for v in cut.inputs if v in inputs})
        found = []
        for tensor, match in self._outputs(self._calls[number]):
            if match.value in cut.outputs:
                array = results[names[match.value]]
                tensors = self._matches.with_same_end(tensor)
                errors = [error for t in tensors if (error := self._matches.distance_to(array, t))]
                found.append(min(errors, key=lambda error: error.relative, default=UNLIKE))
        return worst(found) or UNLIKE
