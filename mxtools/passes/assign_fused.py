"""The pass `assign-fused`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mxtools.evidence.corrections.fused import assign_fused
from mxtools.pipeline.base import Pass
from mxtools.pipeline.working_model import WorkingModel


@dataclass(frozen=True)
class AssignFused(Pass):
    """Give nodes that do the work of several modules (Conv with folded BatchNorm) to the one whose output they make."""

    name: ClassVar[str] = "assign-fused"

    def apply(self, model: WorkingModel) -> None:
        """Annotate the nodes that do the work of several modules; do nothing without a trace."""
        assign_fused(model)
