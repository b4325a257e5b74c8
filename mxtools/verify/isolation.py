"""The own error of each module: it is cut out of the graph and fed what PyTorch's module was fed.

To find one module that is wrong, not all have to run. `smallest_wrong` takes several modules as one part, and goes on
with the half that has the larger error. Of eight layers of which the sixth is wrong it runs 0 to 3 and 4 to 7, then 4
and 5, then 4 and 5 alone:

    layer   0  1  2  3  4  5  6  7
            1e-7        0.02             so it is in 4 to 7
                        0.02             in 4 or 5
                        1e-7 0.3         it is 5; then the modules in 5

An error can be small in what a large part returns, since what follows may weaken it. So the larger error leads on, and
only of the module that is left must it be above the tolerance.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

from onnx import ModelProto

from mxtools.cut.cut import Cut, extracted
from mxtools.cut.surroundings import GivenNodes
from mxtools.errors import AbsentError, InputError, UsageError
from mxtools.graph.shapes import Array
from mxtools.graph.types import as_type
from mxtools.graph.walk import nodes_behind
from mxtools.pipeline.working_model import WorkingModel
from mxtools.runtime.cases import Case
from mxtools.runtime.distance import UNLIKE, Distance
from mxtools.runtime.sessions import REFERENCE, Runtime, batches, run_model
from mxtools.runtime.tolerances import Tolerance
from mxtools.scopes.selection import nodes_of
from mxtools.scopes.tags import class_of
from mxtools.traces.traced_calls import call_ends
from mxtools.verify.output_matches import OutputMatches, has_no_effect

if TYPE_CHECKING:
    from mxtools.traces.sidecar import Sidecar


class Isolation:
    """Runs the modules of a graph one by one, each on its own."""

    def __init__(
        self,
        model: WorkingModel,
        sidecar: Sidecar,
        matches: OutputMatches,
        tolerance: Tolerance,
        runtime: Runtime = REFERENCE,
    ) -> None:
        """Take a graph with the values that stand for what its calls returned; `runtime` is to run the parts."""
        self._tolerance, self._runtime = tolerance, runtime
        self._model, self._weights, self._matches = model, model.weights, matches
        self._annotations, self._shapes = model.annotations, model.shapes
        self._graph, self._calls = model.graph, sidecar.calls
        self._ends = call_ends(sidecar)
        self._entering: dict[int, int] = {}
        self.parts_run = 0

    def errors(self, given: Mapping[str, Array]) -> Iterator[tuple[int, Distance | InputError]]:
        """Yield the own error of each call, or why it does not run; `given` are the graph's inputs.

        Inputs of a call that no module returned, such as the sum of two results, are computed from what modules
        returned. Only the inputs of some calls are in memory at a time.
        """
        cuts = {number: cut for number in range(len(self._calls)) if (cut := self._cut([number]))}
        parts = extracted(self._model.proto, list(cuts.values()), self._weights)
        sizes = {number: sum(map(self._shapes.bytes_of, cut.inputs)) for number, cut in cuts.items()}
        for numbers in batches(sizes):
            inputs = self._inputs([cuts[number] for number in numbers], given)
            for number, part in zip(numbers, parts, strict=False):
                try:
                    yield number, self._own([number], cuts[number], part, inputs)
                except InputError as error:
                    yield number, error

    def smallest_wrong(self, given: Mapping[str, Array]) -> tuple[int, Distance] | None:
        """Return the innermost call that is wrong on its own, with its error, of several one that is worst.

        Returns None if none is wrong. An error without effect on what the caller returns when that runs alone is none.

        Attribute `parts_run` then says how many parts were run. A part that does not run is wrong, but raises
        InputError if the whole model does not run either.
        """
        inside = defaultdict[int | None, list[int]](list)
        for number, call in enumerate(self._calls):
            inside[call.parent].append(number)

        @cache
        def error_of(calls: tuple[int, ...]) -> Distance | None:
            return self._error(calls, given, needed=calls == tuple(inside[None]))

        @cache
        def size_of(calls: tuple[int, ...]) -> float:
            """Return the error as a multiple of that which is just right; of a single call by its class."""
            error = error_of(calls) if calls else None
            if error is None:  # they cannot be one part: what is inside may be
                parts = [(call,) for call in calls] if len(calls) > 1 else [tuple(inside[call]) for call in calls]
                return max(map(size_of, parts), default=0.0)
            caller = self._calls[calls[0]].parent
            around = None if caller is None else error_of((caller,))
            if around and has_no_effect(error, around, self._tolerance):
                return 0.0
            return self._tolerance.excess(error, class_of(self._calls[calls[0]].tag) if len(calls) == 1 else "")

        wrong, group = None, tuple(inside[None])
        while group:
            while len(group) > 1:
                first, second = group[: len(group) // 2], group[len(group) // 2 :]
                is_first = size_of(first) > 1 or size_of(first) >= size_of(second)
                group = first if is_first else second
            if size_of(group) > 1 and (error := error_of(group)):
                wrong = group[0], error
            group = tuple(inside[group[0]])
        return wrong

    def case(self, number: int, given: Mapping[str, Array]) -> Case:
        """Return a call as a model, with values; UsageError if it cannot be cut out."""
        cut, names = self._cut([number]), self._graph.names
        if cut is None:
            raise UsageError(f"{self._calls[number].scope} cannot be cut out", "choose the module that calls it")
        (part,) = extracted(self._model.proto, [cut], self._weights)
        fed = self._fed(cut, part, self._inputs([cut], given))
        expected = {names[v]: array for v in cut.outputs if (array := self._matches.recorded(v)) is not None}
        try:
            actual = run_model(part, self._weights, fed, self._runtime)
        except InputError:
            actual = {}
        return Case(part, fed, expected, {name: actual[name] for name in expected if name in actual})

    def _error(self, calls: Sequence[int], given: Mapping[str, Array], needed: bool = False) -> Distance | None:
        """Return the error of calls that are run as one part; None where they cannot be cut out together.

        What does not run is wrong; with `needed` it raises InputError.
        """
        cut = self._cut(calls)
        if cut is None:
            return None
        (part,) = extracted(self._model.proto, [cut], self._weights)
        try:
            return self._own(calls, cut, part, self._inputs([cut], given))
        except InputError:
            if needed:
                raise
            return UNLIKE

    def _inputs(self, cuts: Iterable[Cut], given: Mapping[str, Array]) -> dict[int, Array]:
        """Return what some parts are given: the graph's inputs, what modules returned, or what is computed of both."""
        names, wanted = self._graph.names, dict.fromkeys(v for cut in cuts for v in cut.inputs)
        inputs = {v: given[names[v]] for v in wanted if names[v] in given} | self._recorded(wanted)
        return inputs | self._between([v for v in wanted if v not in inputs], given)

    def _cut(self, calls: Sequence[int]) -> Cut | None:
        """Cut calls out, with the outputs that they returned; return None where no node of their own makes any.

        Of several calls, only what nodes outside of them read are outputs, so that a runtime can fuse what is inside.
        """
        try:
            chosen = nodes_of(self._annotations, [c for call in calls for c in range(call, self._ends[call])])
        except (AbsentError, UsageError):
            return None
        made = {v for node in chosen for v in self._graph.writes[node]}
        found = dict.fromkeys(match.value for call in calls for _, match in self._matches.of_call(self._calls[call]))
        outputs = [v for v in found if v in made and (len(calls) == 1 or self._is_read_outside(v, chosen))]
        if not outputs:
            return None
        cut = Cut(self._graph, chosen, GivenNodes(self._annotations, chosen), outputs)
        self._note_entering(calls, cut)
        return cut

    def _note_entering(self, calls: Sequence[int], cut: Cut) -> None:
        """Find inputs of a part that are known from what the calls were given, though no module returned them.

        A fault in the nodes between two modules would else be passed on to the second, and be taken for its own. Only
        what has a shape that nothing else has is certain.
        """
        matched = self._matches.tensor_at
        tensors = {t.id: t for call in calls for t in self._calls[call].inputs if t.id not in self._matches.makers}
        values = [v for v in cut.inputs if v not in matched and v not in self._graph.inputs]
        fitting = {v: [t.id for t in tensors.values() if (s := self._shapes[v]) and s.agrees(t)] for v in values}
        claimed = Counter(number for numbers in fitting.values() for number in numbers)
        for value, numbers in fitting.items():
            if len(numbers) == 1 and claimed[numbers[0]] == 1:
                self._entering[value] = numbers[0]

    def _is_read_outside(self, value: int, chosen: Collection[int]) -> bool:
        return value in self._graph.outputs or any(reader not in chosen for reader in self._graph.readers[value])

    def _recorded(self, values: Iterable[int]) -> dict[int, Array]:
        found = {v: array for v in values if (array := self._matches.recorded(v)) is not None}
        entering = ((v, self._matches.traced(self._entering[v])) for v in values if v in self._entering)
        return found | {v: array for v, array in entering if array is not None and v not in found}

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

    def _fed(self, cut: Cut, part: ModelProto, inputs: Mapping[int, Array]) -> dict[str, Array]:
        """Return the inputs of a part by name, in the types that it takes."""
        names, types = self._graph.names, {info.name: info.type for info in part.graph.input}
        return {names[v]: as_type(inputs[v], types[names[v]]) for v in cut.inputs if v in inputs}

    def _own(self, calls: Sequence[int], cut: Cut, part: ModelProto, inputs: Mapping[int, Array]) -> Distance:
        """Run a part and return its error; a value that it may share with a module without nodes can be of either."""
        names = self._graph.names
        self.parts_run += 1
        results = run_model(part, self._weights, self._fed(cut, part, inputs), self._runtime)
        found = []
        for tensor, match in (pair for call in calls for pair in self._matches.of_call(self._calls[call])):
            if match.value in cut.outputs:
                array = results[names[match.value]]
                tensors = self._matches.with_same_end(tensor)
                errors = [error for t in tensors if (error := self._matches.distance_to(array, t))]
                found.append(min(errors, key=self._tolerance.error, default=UNLIKE))
        return self._tolerance.worst(found) or UNLIKE
