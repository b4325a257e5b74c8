"""The pass `assign-fused-previous`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mxtools.matching.after_tool import assign_fused_previous
from mxtools.pipeline.base import Pass
from mxtools.pipeline.working_model import WorkingModel


@dataclass(frozen=True)
class AssignFusedPrevious(Pass):
    """Move nodes that a tool merged out of the modules that share them; mark modules that end inside others."""

    name: ClassVar[str] = "assign-fused-previous"

    def apply(self, model: WorkingModel) -> None:
        """Compare the values that leave modules with those that left them in the earlier model, if there is one."""
        assign_fused_previous(model)
