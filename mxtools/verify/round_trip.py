"""The module round trip: whether what is cut out for each module call returns what PyTorch's module returned."""

from __future__ import annotations

import glob
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field

from mxtools.cut.cut import Cut, extracted
from mxtools.cut.surroundings import GivenNodes
from mxtools.errors import AbsentError, InputError, UsageError
from mxtools.graph.index import Graph
from mxtools.graph.shapes import Array
from mxtools.matching.traced_values import matched_values, same_values
from mxtools.pipeline.field_mapping import FieldMapping
from mxtools.pipeline.working_model import WorkingModel
from mxtools.runtime.sessions import inner_values, run_model
from mxtools.scopes.annotations import Annotations
from mxtools.scopes.equal_work import EqualWork
from mxtools.scopes.hierarchy import ROOT_CALL
from mxtools.scopes.selection import Selection, calls_of, nodes_of
from mxtools.traces.traced_calls import call_ends, known_outputs, operations_reading, returned_tensors
from mxtools.traces.values import Values

if TYPE_CHECKING:
    from mxtools.traces.sidecar import Call, Sidecar

EXACT, GONE = "exact", "gone"


class RoundTrip(FieldMapping, BaseModel):  # type: ignore[misc]  # a mapping iterates over its keys
    """How many module calls, cut out, return what PyTorch's module returned; the classes are in docs/strategies.md."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    exact: int = 0
    extra: int = 0
    bad: int = 0
    missing: int = 0
    gone: Annotated[int, Field(description="the exporter removed the module; does not count in the rate")] = 0

    @property
    def rate(self) -> float:
        """Return exact / (exact + extra + bad + missing); 1 where there is none."""
        counted = self.exact + self.extra + self.bad + self.missing
        return self.exact / counted if counted else 1.0


@dataclass(frozen=True)
class Verdict:
    """What became of a call: `word` is exact, extra, bad, missing or gone; `reason` says why."""

    scope: str
    word: str
    reason: str = ""


def counted(verdicts: Collection[Verdict]) -> RoundTrip:
    """Return how many verdicts there are of each kind."""
    return RoundTrip(**Counter(verdict.word for verdict in verdicts))


def round_trip(model: WorkingModel) -> list[Verdict]:
    """Cut out every call that made something which is used, run it, and compare its results with the recorded ones.

    `exact`: it returns all that the graph has of what the module returned, and nothing else, but for outputs of the
    graph that the traced model did not return. `extra`: it also returns tensors that the module did not return. `bad`:
    something is lacking, or it does not run. `missing`: it cannot be cut out, although its results are in the graph.
    `gone`: it cannot be cut out, and its results are not in the graph, or a node of another module does its work too;
    then its results can be there by chance, as those of a convolution with a new BatchNorm, which changes nothing.
    Raises UsageError where there is no trace with values.
    """
    sidecar, values = model.sidecar, model.values
    if not sidecar or not values:
        raise UsageError("the round trip needs recorded values", "give a trace with them (⟨record⟩)")
    annotations = model.annotations
    live = _live(annotations.graph, matched_values(model, sidecar, values))
    verdicts: dict[int, Verdict] = {}
    cuts: dict[int, Cut] = {}
    used, merged = _used(sidecar), _merged(annotations)
    for number, results in used.items():
        scope = sidecar.calls[number].scope
        try:
            cuts[number] = _cut(annotations, scope)
        except (AbsentError, UsageError) as error:
            word = "missing" if results & live and number not in merged else "gone"
            verdicts[number] = Verdict(scope, word, str(error))
    outputs = [value.name for value in model.proto.graph.output]
    others = set(outputs) - known_outputs(outputs, sidecar)
    given = model.inputs()
    asked = {annotations.graph.names[v] for cut in cuts.values() for v in cut.inputs} - given.keys()
    given |= dict(inner_values(model.proto, model.weights, given, dict.fromkeys(sorted(asked), 0)))
    parts = extracted(model.proto, list(cuts.values()), model.weights)
    for number, part in zip(cuts, parts, strict=True):
        call = sidecar.calls[number]
        try:
            feeds = {value.name: given[value.name] for value in part.graph.input if value.name in given}
            got = run_model(part, model.weights, feeds)
        except InputError as error:
            verdicts[number] = Verdict(call.scope, "bad", str(error))
            continue
        verdicts[number] = _compared(
            call, {n: v for n, v in got.items() if n not in others}, values, used[number] & live
        )
    return [verdicts[number] for number in sorted(verdicts)]


def _live(graph: Graph, matches: dict[int, list[int]]) -> set[int]:
    """Return the tensors of the trace that the graph computes from its inputs."""
    fixed = graph.constant | graph.stored
    return {tensor for tensor, values in matches.items() if any(value not in fixed for value in values)}


def _used(sidecar: Sidecar) -> dict[int, set[int]]:
    """Return for each call the tensors that it made and that others read; those of one element are left out."""
    readers = _readers(sidecar)
    results = {tensor.id for tensor in sidecar.calls[ROOT_CALL].outputs} if sidecar.calls else set()
    found = {}
    for number, end in enumerate(call_ends(sidecar)):
        own = {t.id for t in returned_tensors(sidecar.calls[number]) if prod(t.shape) > 1}
        found[number] = {t for t in own if t in results or any(not number <= c < end for c in readers[t])}
    return {number: tensors for number, tensors in found.items() if tensors}


def _readers(sidecar: Sidecar) -> dict[int, list[int]]:
    """Return for each tensor the calls that read it: those whose operations do, or that were given it.

    Only a call without operations counts for what it was given: nobody saw what it did. Others may be given tensors
    that they ignore, as a decoder that is given the features of all stages and works on the last two.
    """
    readers: dict[int, list[int]] = defaultdict(list)
    for tensor, operations in operations_reading(sidecar).items():
        readers[tensor] += [operation.call for operation in operations]
    running = sorted(operation.call for operation in sidecar.operations)
    for number, end in enumerate(call_ends(sidecar)):
        if bisect_left(running, number) == bisect_left(running, end):
            for given in sidecar.calls[number].inputs:
                readers[given.id].append(number)
    return readers


def _merged(annotations: Annotations) -> set[int]:
    """Return the calls whose work a node of another call does."""
    return {c for node in annotations.merged for c in annotations.ending_in(node) if c != annotations.call[node]}


def _cut(annotations: Annotations, scope: str) -> Cut:
    calls = calls_of(annotations, Selection((glob.escape(scope),)))
    chosen = nodes_of(annotations, calls)
    cut = Cut(annotations.graph, chosen, GivenNodes(annotations, chosen), equal=EqualWork(annotations, calls))
    if not cut.outputs:
        raise AbsentError("nothing reads what it computes")
    return cut


def _compared(call: Call, got: dict[str, Array], values: Values, wanted: set[int]) -> Verdict:
    """Return the verdict on what a part returned; `wanted` are the tensors that the graph has."""
    recorded = {t.id: array for t in (*call.outputs, *call.leaves) if (array := values.get(str(t.id))) is not None}
    found = {name: {i for i, array in recorded.items() if same_values(result, array)} for name, result in got.items()}
    lacking = wanted - set().union(*found.values())
    if lacking:
        names = [t.name for t in call.outputs if t.id in lacking]
        return Verdict(call.scope, "bad", f"does not return {', '.join(names)}")
    more = [name for name, ids in found.items() if not ids]
    return Verdict(call.scope, "extra" if more else "exact", f"also returns {', '.join(more)}" if more else "")
