"""Comparing what the modules in a graph return with what PyTorch's returned, in ONNX Runtime, without torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING

from onnx import ModelProto

from mxtools.errors import InputError, UsageError
from mxtools.evidence.data_flow import resolve
from mxtools.graph.index import graph_inputs
from mxtools.graph.types import as_type
from mxtools.pipeline.working_model import WorkingModel
from mxtools.runtime.distance import EQUAL, UNLIKE, Distance, worst
from mxtools.runtime.session_values import Value
from mxtools.runtime.sessions import inner_tensors
from mxtools.scopes.annotations import Annotations
from mxtools.scopes.hierarchy import ROOT_CALL
from mxtools.traces.traced_calls import returned_tensors
from mxtools.traces.values import Values, feeds
from mxtools.verify.isolation import Isolation
from mxtools.verify.output_matches import OutputMatches, has_no_effect

if TYPE_CHECKING:
    from mxtools.traces.sidecar import Sidecar

GONE = "no tensor of the graph equals its results"
"""The reason of a call for whose results no value stands."""


@dataclass(frozen=True)
class Output:
    """A tensor that a module returned: its name there, the one that stands for it in the graph, and how far that is."""

    name: str
    tensor: str
    distance: Distance
    harmless: bool = False
    """It differs without an effect on what the caller returned: it is no result of the module, or does not matter."""


@dataclass
class Checked:
    """One call of a module."""

    scope: str
    tag: str
    outputs: list[Output] = field(default_factory=list)
    reason: str = ""
    """Why nothing is compared, or why the call does not run on its own."""
    own: Distance | None = None
    """Its error when it is fed what PyTorch's module was fed."""
    children: list[Checked] = field(default_factory=list)

    @property
    def distance(self) -> Distance | None:
        """The largest error of its outputs; harmless ones count only if there are no others. None without outputs."""
        counted = [output.distance for output in self.outputs if not output.harmless]
        return worst(counted or [output.distance for output in self.outputs])

    @property
    def error(self) -> float:
        """The largest relative L2 error of what it and the calls in it return; 0 where nothing is compared."""
        here = self.distance.relative_l2 if self.distance else 0.0
        return max(here, *(child.error for child in self.children), 0.0)

    @property
    def own_error(self) -> float:
        """The same of it and the calls in it when each runs alone."""
        here = self.own.relative_l2 if self.own else 0.0
        return max(here, *(child.own_error for child in self.children), 0.0)


NOISY = 80.0
"""SQNR in dB above which noise is that of rounding to float32, or little more; half precision has 60 to 70 dB."""


@dataclass(frozen=True)
class Verified:
    """What became of all calls, in the order of the trace, and the first one that has a wrong output."""

    calls: list[Checked]
    tolerance: float
    first: Checked | None
    untagged: int
    """The number of nodes that had no scope and got that of their neighbours."""

    @property
    def furthest(self) -> Checked | None:
        """The call with the largest error that is not harmless, None where nothing is compared."""
        counted = [call for call in self.calls if call.outputs and not all(output.harmless for output in call.outputs)]
        return max(counted, key=lambda call: call.distance.relative if call.distance else 0.0, default=None)

    @property
    def culprits(self) -> list[Checked]:
        """The innermost calls that are wrong when they are fed what PyTorch's modules were fed.

        A call inside one that is right on its own is not among them.
        """
        return list(self._culprits(self.calls[ROOT_CALL], UNLIKE))

    @property
    def noisiest(self) -> Checked | None:
        """The innermost call that adds the most noise when it runs alone, None if none adds any that counts.

        Its error may be far below the tolerance, which is compared with the largest value: a single large weight makes
        the largest value of a result large, and hides the error of all others.
        """
        alone = [call for call in self.calls if call.own and not any(child.own for child in call.children)]
        found = min(alone, key=lambda call: call.own.sqnr if call.own else inf, default=None)
        return found if found and found.own and found.own.sqnr < NOISY else None

    def _culprits(self, call: Checked, around: Distance) -> Iterator[Checked]:
        own = call.own or EQUAL
        inner = [c for child in call.children for c in self._culprits(child, call.own or around)]
        if not inner and not own.relative <= self.tolerance and not has_no_effect(own, around, self.tolerance):
            yield call
        yield from inner


def verify(model: WorkingModel, tolerance: float, isolating: bool = False) -> Verified:
    """Run a tagged graph on the recorded inputs and compare every call's outputs with the recorded ones.

    `tolerance` is the largest difference over the largest value that still counts as right. With `isolating` each call
    is also cut out and run on the recorded inputs. Raises UsageError without recorded values, InputError where the
    graph does not run or has no scopes.
    """
    sidecar, values = model.sidecar, model.values
    if not sidecar:
        raise UsageError("there is no trace to compare with", "give ⟨trace⟩, with recorded values (⟨record⟩)")
    if not values:
        raise UsageError("the trace has no recorded values", "make it again with ⟨record⟩")
    model.require_tagged()
    untagged = model.annotations.call.count(None)
    if untagged:
        model = model.copy()
        resolve(model.annotations)
    annotations, names = model.annotations, model.graph.names
    matches = OutputMatches(annotations, model.shapes, sidecar, values)
    given = recorded_inputs(model.proto, sidecar, values)
    sizes = {names[value]: size for value, size in matches.wanted.items()}
    for name, array in inner_tensors(model.proto, model.weights, given, sizes):
        matches.compare(annotations.graph.by_name[name], array)
    matches.conclude(tolerance)
    calls = _calls(annotations, sidecar, matches, model.absent)
    if isolating:
        for number, own in Isolation(model, sidecar, matches).errors(given):
            if isinstance(own, Distance):
                calls[number].own = own
            else:
                calls[number].reason = str(own)
    return Verified(calls, tolerance, _first(calls, matches, tolerance), untagged)


def recorded_inputs(model: ModelProto, sidecar: Sidecar, values: Values) -> dict[str, Value]:
    """Return the recorded values of a graph's inputs, in the types that it takes; InputError where one has none."""
    asked = graph_inputs(model)
    given = feeds(sidecar, values, [value.name for value in asked])
    missing = next((value.name for value in asked if value.name not in given), None)
    if missing is not None:
        raise InputError(
            f"the trace has no value for the graph's input {missing!r}", "give the recorded trace of this model"
        )
    return {value.name: as_type(given[value.name], value.type) for value in asked}


def _calls(annotations: Annotations, sidecar: Sidecar, matches: OutputMatches, absent: dict[str, str]) -> list[Checked]:
    """Return the calls with what stands for their outputs, or why nothing does."""
    found = [Checked(call.scope, call.tag) for call in sidecar.calls]
    names = annotations.graph.names
    for row, call in zip(found, sidecar.calls, strict=True):
        if call.parent is not None:
            found[call.parent].children.append(row)
        own = returned_tensors(call)
        matched = [(tensor, match) for tensor in own if (match := matches[tensor.id])]
        row.outputs = [Output(t.name, names[m.value], m.distance, t.id in matches.harmless) for t, m in matched]
        if not row.outputs:
            row.reason = absent.get(call.scope) or (GONE if own else "returns its inputs")
        elif any(output.harmless for output in row.outputs):
            row.reason = "differs, but without effect"
    return found


def _first(calls: list[Checked], matches: OutputMatches, tolerance: float) -> Checked | None:
    """Return the call that made the first wrong tensor, in the order in which these came to be; None without one."""
    known = (tensor for tensor in matches.tensors if tensor not in matches.harmless)
    wrong = (tensor for tensor in known if (match := matches[tensor]) and not match.distance.relative <= tolerance)
    return next((calls[matches.makers[tensor]] for tensor in wrong), None)
