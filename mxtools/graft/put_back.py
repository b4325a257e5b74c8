"""Put a changed part back into a tagged model: the graph, the tags of new nodes, and the list of absent scopes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

from mxtools.evidence.absent import calls_with_nodes
from mxtools.graft.grafting import Grafted, graft
from mxtools.graph.operators import OperatorKey, function_key
from mxtools.pipeline.base import Report
from mxtools.pipeline.working_model import WorkingModel
from mxtools.runtime.tolerances import EXACT, usual_tolerance
from mxtools.scopes.annotations import MERGED_INTO, Annotations, Evidence
from mxtools.scopes.hierarchy import ROOT_CALL


@dataclass(frozen=True)
class GraftReport(Report):
    """How many nodes were removed, added and kept, and which values of the part were renamed.

    `differences` says how far the outputs of the part and of the model are from what they were without the part; None
    if no check was asked for.
    """

    kind: ClassVar[str] = "graft"

    removed: int
    added: int
    kept: int
    renamed: dict[str, str]
    differences: list[dict[str, Any]] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data, for JSON."""
        found = asdict(self)
        differences = found.pop("differences")
        return found if differences is None else found | {"verify": differences}


def put_back(model: WorkingModel, part: WorkingModel, verify: bool = False) -> GraftReport:
    """Replace what a part was cut from by the part, in place; the part must not be used afterwards.

    With `verify`, the model is run without and with the part. Raises InputError if the inputs and outputs of the part
    do not fit the model, CheckError if the model computes something else with the part.
    """
    whole = model.copy() if verify else None
    made = [value.name for value in part.proto.graph.output]
    tolerance = max(usual_tolerance(m.proto, m.graph) for m in (model, part)) if whole else EXACT
    report = _replaced(model, part)
    return replace(report, differences=_differences(whole, model, made, tolerance)) if whole else report


def _replaced(model: WorkingModel, part: WorkingModel) -> GraftReport:
    """Put a part into a model, with the scopes of its nodes."""
    before, functions = model.annotations, {function_key(f) for f in model.proto.functions}
    with model.changing() as proto:
        done = graft(proto, before.graph, model.weights, part)
    if any(before.evidence) and (done.added or done.removed):
        scope, tag = _place(before, done)
        after = model.annotations
        _tag(after, scope, tag, _new_nodes(model, after, done, functions))
        model.write_annotations()
        _update_absent(model, before, after, scope)
    return GraftReport(len(done.removed), len(done.added), done.kept, done.renamed)


def _differences(
    before: WorkingModel, after: WorkingModel, names: Collection[str], tolerance: float
) -> list[dict[str, Any]]:
    """Compare a model with a part and without; ONNX Runtime is imported only here."""
    from mxtools.graft.graft_check import check_graft

    return check_graft(before, after, names, tolerance)


def _place(before: Annotations, done: Grafted) -> tuple[str, str]:
    """Return scope and tag of what a part replaced: the lowest call around all replaced nodes with a known scope."""
    nodes = done.removed or done.replaced
    calls = [c for n in nodes if (c := before.call[n]) is not None and before.evidence[n] is not Evidence.ROOT]
    call = before.hierarchy.common(calls) if calls else ROOT_CALL
    return before.hierarchy.scopes[call], before.hierarchy.tags[call]


def _new_nodes(model: WorkingModel, after: Annotations, done: Grafted, functions: Collection[OperatorKey]) -> list[int]:
    """Return the nodes that came with a part, including those in its bodies and functions."""
    graph = after.graph
    tops = {graph.main[place] for place in done.added}
    regions = {n for n, function in enumerate(model.proto.functions, 1) if function_key(function) not in functions}
    return [n for n in range(len(graph.nodes)) if graph.region[n] in regions or graph.top(n) in tops]


def _tag(after: Annotations, scope: str, tag: str, nodes: list[int]) -> None:
    """Give a scope and tag to those of some nodes that have none."""
    untagged = [n for n in nodes if after.call[n] is None]
    if untagged:
        call = after.hierarchy.find(scope)
        call = after.hierarchy.adopt(scope, tag) if call is None else call
        for node in untagged:
            after.set(node, call, Evidence.DATAFLOW)


def _update_absent(model: WorkingModel, before: Annotations, after: Annotations, scope: str) -> None:
    """List scopes as absent that lost all their nodes to the part; remove those that have nodes again."""
    had, has = ({a.hierarchy.scopes[call] for call in calls_with_nodes(a)} for a in (before, after))
    was = model.absent
    absent = {name: reason for name, reason in was.items() if name not in has}
    lost = had - has - absent.keys()
    absent |= {name: MERGED_INTO + scope for name in before.hierarchy.scopes if name in lost}
    if absent != was:
        after.write_absent(absent)
