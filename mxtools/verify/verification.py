"""Comparing what the modules in a graph return with what PyTorch's returned, in ONNX Runtime, without torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from onnx import ModelProto

from mxtools.errors import InputError, UsageError
from mxtools.graph.index import graph_inputs
from mxtools.pipeline.working_model import WorkingModel
from mxtools.runtime.cases import Case
from mxtools.runtime.distance import Distance
from mxtools.runtime.session_values import Value
from mxtools.runtime.sessions import REFERENCE, Runtime, inner_tensors
from mxtools.runtime.tolerances import Tolerance
from mxtools.scopes.annotations import Annotations
from mxtools.scopes.hierarchy import ROOT_CALL
from mxtools.scopes.tags import class_of
from mxtools.traces.model_inputs import recorded_feeds
from mxtools.traces.traced_calls import returned_tensors
from mxtools.traces.values import Values
from mxtools.verify.isolation import Isolation
from mxtools.verify.output_matches import OutputMatches
from mxtools.verify.reference import resolved, traced_run
from mxtools.verify.report import Bisected, Checked, Output, Verified

if TYPE_CHECKING:
    from mxtools.traces.sidecar import Sidecar

GONE = "no tensor of the graph equals its results"
"""The reason of a call for whose results no value stands."""


class Verification:
    """A tagged graph and a trace of recorded values, to compare what the calls return.

    `tolerance` says what still counts as right; `runtime` runs the graph and its parts.
    """

    def __init__(
        self, model: WorkingModel, tolerance: Tolerance, runtime: Runtime = REFERENCE, of_graph: bool = False
    ) -> None:
        """Take a model with its trace, which is that of another graph or of PyTorch.

        Raises UsageError without recorded values, InputError if no node has a scope.
        """
        sidecar, values = model.sidecar, model.values
        if not sidecar:
            raise UsageError("there is no trace to compare with", "give ⟨trace⟩, with recorded values (⟨record⟩)")
        if not values:
            raise UsageError("the trace has no recorded values", "make it again with ⟨record⟩")
        self.untagged = model.annotations.call.count(None)
        model = resolved(model)
        self.model, self.tolerance, self.runtime = model, tolerance, runtime
        self._sidecar, self._given = sidecar, recorded_inputs(model.proto, sidecar, values)
        self._matches = OutputMatches(model.annotations, model.shapes, sidecar, values, leaving=of_graph)
        self._isolation = Isolation(model, sidecar, self._matches, tolerance, runtime)

    def report(self, isolating: bool = False) -> Verified:
        """Compare every call's outputs with the recorded ones; with `isolating` also of each call that runs alone.

        Raises InputError if the graph does not run.
        """
        self._match(self.runtime)
        calls = _calls(self.model.annotations, self._sidecar, self._matches, self.model.absent)
        for number, own in self._isolation.errors(self._given) if isolating else ():
            if isinstance(own, Distance):
                calls[number].own = own
            else:
                calls[number].reason = str(own)
        return Verified(calls, self.tolerance, _first(calls, self._matches, self.tolerance), self.untagged)

    def bisect(self) -> Bisected:
        """Find the smallest module that is wrong when it runs alone, with few runs of parts.

        Only parts run in the runtime, and only with the outputs that they have anyway, so that it can fuse what is
        inside a module. What stands for the results of a module is found by a run in ONNX Runtime on the CPU.
        """
        self._match(REFERENCE)
        wrong = self._isolation.smallest_wrong(self._given)
        runs = self._isolation.parts_run
        return Bisected(self._sidecar.calls[wrong[0]].scope, wrong[1], runs) if wrong else Bisected(None, None, runs)

    def case(self, scope: str) -> Case:
        """Return a module as a model, with values; after a report or a bisection."""
        number = next(number for number, call in enumerate(self._sidecar.calls) if call.scope == scope)
        return self._isolation.case(number, self._given)

    def class_of(self, scope: str) -> str:
        """Return the class of a module; an empty name if the trace has no such module."""
        return next((class_of(call.tag) for call in self._sidecar.calls if call.scope == scope), "")

    def _match(self, runtime: Runtime) -> None:
        """Run the graph, and find the values that stand for what the calls returned."""
        graph, matches = self.model.graph, self._matches
        sizes = {graph.names[value]: size for value, size in matches.wanted.items()}
        for name, array in inner_tensors(self.model.proto, self.model.weights, self._given, sizes, runtime):
            matches.compare(graph.by_name[name], array)
        matches.conclude(self.tolerance)


def verify(model: WorkingModel, tolerance: Tolerance, isolating: bool = False) -> Verified:
    """Run a tagged graph on the recorded inputs and compare every call's outputs with the recorded ones.

    With `isolating` each call is also cut out and run on the recorded inputs. Raises UsageError without recorded
    values, InputError where the graph does not run or has no scopes.
    """
    return Verification(model, tolerance).report(isolating)


def against(
    model: WorkingModel,
    reference: WorkingModel,
    tolerance: Tolerance,
    folder: Path,
    runtime: Runtime = REFERENCE,
    reference_runtime: Runtime = REFERENCE,
) -> Verification:
    """Run a reference, and return what compares a tagged model with what the reference's modules returned.

    What these returned lies in a folder, which has to stay as long as the result is used. The inputs are those that the
    reference was recorded with or given, else made ones. Raises InputError where the reference does not run or has no
    scopes.
    """
    model.write_annotations()
    sidecar, values = traced_run(reference, reference_runtime, reference.inputs(), folder)
    traced = WorkingModel(model.proto, model.weights, model.name, sidecar=sidecar, values=values)
    return Verification(traced, tolerance, runtime, of_graph=True)


def recorded_inputs(model: ModelProto, sidecar: Sidecar, values: Values) -> dict[str, Value]:
    """Return the recorded values of a graph's inputs, in the types that it takes; InputError where one has none."""
    given = recorded_feeds(model, sidecar, values)
    missing = next((value.name for value in graph_inputs(model) if value.name not in given), None)
    if missing is not None:
        raise InputError(
            f"the trace has no value for the graph's input {missing!r}", "give the recorded trace of this model"
        )
    return given


def _calls(annotations: Annotations, sidecar: Sidecar, matches: OutputMatches, absent: dict[str, str]) -> list[Checked]:
    """Return the calls with what stands for their outputs, or why nothing does."""
    found = [Checked(call.scope, call.tag) for call in sidecar.calls]
    names = annotations.graph.names
    for row, call in zip(found, sidecar.calls, strict=True):
        if call.parent is not None:
            found[call.parent].children.append(row)
        row.outputs = [
            Output(t.name, names[m.value], m.distance, m == matches[t.id] and t.id in matches.harmless)
            for t, m in matches.of_call(call)
        ]
        if not row.outputs:
            row.reason = absent.get(call.scope) or (GONE if returned_tensors(call) else "returns its inputs")
        elif any(output.harmless for output in row.outputs):
            row.reason = "differs, but without effect"
    return found


def _first(calls: list[Checked], matches: OutputMatches, tolerance: Tolerance) -> Checked | None:
    """Return the call that made the first wrong tensor, in the order in which these came to be; None without one.

    It is the whole model if only its outputs are wrong.
    """
    known = (tensor for tensor in matches.tensors if tensor not in matches.harmless)
    wrong = (tensor for tensor in known if matches[tensor] and not matches.is_right(tensor, tolerance))
    whole = calls[ROOT_CALL]
    is_right = all(o.harmless or tolerance.is_right(o.distance, whole.class_name) for o in whole.outputs)
    return next((calls[matches.makers[tensor]] for tensor in wrong), None if is_right else whole)
