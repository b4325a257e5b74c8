"""The pass `record-absent`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from mxtools.errors import CheckError
from mxtools.evidence.absent import absent_scopes, calls_with_nodes, lost_scopes, unfound_scopes
from mxtools.evidence.incomplete import incomplete_calls
from mxtools.evidence.named_values import named_matches
from mxtools.evidence.node_names import foreign_modules
from mxtools.evidence.statements import NodeHistory, disagreements
from mxtools.pipeline.base import Pass, Report, option
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes.annotations import Evidence


@dataclass(frozen=True)
class TagReport(Report):
    """The result of a projection: numbers of nodes, of nodes by evidence and of merged nodes, and absent scopes.

    `absent` has the traced scopes without nodes, each with the reason. `disagreements` is the number of nodes whose
    scope differs from what the exporter says. `part` is the module that was exported, empty for the whole model.
    `foreign` has the modules that nodes name but the trace lacks, each with its number of nodes, if there are many.
    `incomplete` has the scopes that lack something in the graph: results, `1 of 2`, or their first or last operation,
    `without: relu of act`.
    `unfound` has the absent scopes that should have nodes, if there are many: then the trace fits badly.
    `explained` says how the nodes that the user named got their scopes.
    """

    kind: ClassVar[str] = "tag"

    nodes: int
    evidence: dict[str, int]
    merged: int
    absent: dict[str, str]
    disagreements: int = 0
    foreign: dict[str, int] = field(default_factory=dict)
    part: str = ""
    unfound: tuple[str, ...] = ()
    incomplete: dict[str, str] = field(default_factory=dict)
    explained: tuple[NodeHistory, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data, for JSON, without a part, scopes or explanations if there are none."""
        left_out = {name for name in ("explained", "incomplete", "part", "unfound") if not getattr(self, name)}
        return {key: value for key, value in asdict(self).items() if key not in left_out}


@dataclass(frozen=True)
class RecordAbsent(Pass):
    """Record in the model which traced scopes have no node, and why, and report the result of the projection."""

    name: ClassVar[str] = "record-absent"

    strict: bool = option("refuse a model with nodes for which there is no evidence", False)

    def apply(self, model: WorkingModel) -> TagReport:
        """Write the model's metadata and return the report.

        With `strict`, raises CheckError if there is no evidence for a node, so that it is in the root.
        """
        annotations = model.annotations
        unknown = [node for node, word in enumerate(annotations.evidence) if word is Evidence.ROOT]
        if self.strict and unknown:
            proto = annotations.graph.nodes[unknown[0]]
            raise CheckError(
                f"there is no evidence for {len(unknown)} nodes, of which the first is {proto.op_type} {proto.name!r}",
                "give a trace of the model (⟨trace⟩), with recorded values (⟨record⟩)",
            )
        absent = _lost(model, model.previous) if model.previous else absent_scopes(annotations, model.traced)
        annotations.incomplete = _incomplete(model, absent)
        annotations.write_absent(absent)
        differing = 0 if model.previous else len(disagreements(model))
        foreign = {} if model.previous else foreign_modules(model)
        counts = len(annotations.call), annotations.counts(), len(annotations.merged)
        part = model.traced.model.part if model.traced else ""
        incomplete = {annotations.hierarchy.scopes[call]: text for call, text in annotations.incomplete.items()}
        unfound = () if model.previous else tuple(unfound_scopes(annotations, model.traced, absent))
        return TagReport(*counts, absent, differing, foreign, part or "", unfound, incomplete)


def _incomplete(model: WorkingModel, absent: dict[str, str]) -> dict[int, str]:
    """Return the calls that lack something in the graph; of a tool's model, those that the earlier one lacked."""
    if model.previous:
        with_nodes = calls_with_nodes(model.annotations)
        return {c: text for c, text in model.previous.annotations.incomplete.items() if c in with_nodes}
    if not model.traced:
        return {}
    return incomplete_calls(model.annotations, model.traced, absent, lambda: model.once(named_matches))


def _lost(model: WorkingModel, previous: WorkingModel) -> dict[str, str]:
    """Return the scopes of the earlier model that no node has now, each with the reason."""
    from mxtools.matching.earlier_model import EarlierModelMatch, match_earlier  # long to import, and seldom needed

    match = model.once(match_earlier)
    assert isinstance(match, EarlierModelMatch)
    with_nodes = calls_with_nodes(model.annotations)
    earlier = match.earlier_annotations.equal
    model.annotations.equal.update({c: e for c, e in earlier.items() if e in with_nodes and c not in with_nodes})
    return lost_scopes(model.annotations, match.earlier_annotations, previous.absent, match.passing_calls, match.part)
