"""The pass `record-absent`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onnx import ModelProto

from mxtools.errors import CheckError
from mxtools.evidence.absent import absent_scopes, lost_scopes
from mxtools.pipeline.context import Context, Pass, option
from mxtools.scopes.annotations import Evidence, read_absent, write_absent


@dataclass(frozen=True)
class RecordAbsent(Pass):
    """Record on the model which scopes of the trace no node bears, and why, and report what was projected."""

    name: ClassVar[str] = "record-absent"
    annotates: ClassVar[bool] = True

    strict: bool = option("refuse a model with nodes of which nothing is known", False)

    def apply(self, model: ModelProto, context: Context) -> None:
        """Write the model's metadata and report, under "tag": nodes, nodes by evidence, merged nodes, absent scopes.

        Raises CheckError under `strict` when a node has the root as its scope because nothing is known of it.
        """
        annotations = context.annotations(model)
        unknown = [node for node, word in enumerate(annotations.evidence) if word is Evidence.ROOT]
        if self.strict and unknown:
            proto = annotations.graph.nodes[unknown[0]]
            raise CheckError(
                f"nothing is known of {len(unknown)} nodes, the first is {proto.op_type} {proto.name!r}: "
                "give a trace of the model (--trace), with values (mx trace --record)"
            )
        absent, previous, carried = absent_scopes(annotations), context.previous, context.carried(model)
        if previous and carried:
            absent = lost_scopes(annotations, carried.was, read_absent(previous.model), carried.passing)
        write_absent(model, absent)
        context.report["tag"] = {
            "nodes": len(annotations.call),
            "evidence": annotations.counts(),
            "merged": len(annotations.merged),
            "absent": absent,
        }
