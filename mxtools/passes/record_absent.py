"""The pass `record-absent`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onnx import ModelProto

from mxtools.absent import absent_scopes
from mxtools.annotations import write_absent
from mxtools.context import Context, Pass


@dataclass(frozen=True)
class RecordAbsent(Pass):
    """Record on the model which scopes of the trace no node bears, and why, and report what was projected."""

    name: ClassVar[str] = "record-absent"
    annotates: ClassVar[bool] = True

    def apply(self, model: ModelProto, context: Context) -> None:
        """Write the model's metadata and report, under "tag": nodes, nodes by evidence, merged nodes, absent scopes."""
        annotations = context.annotations(model)
        absent = absent_scopes(annotations)
        write_absent(model, absent)
        context.report["tag"] = {
            "nodes": len(annotations.call),
            "evidence": annotations.counts(),
            "merged": len(annotations.merged),
            "absent": absent,
        }
