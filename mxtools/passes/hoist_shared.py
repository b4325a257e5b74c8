"""The pass `hoist-shared`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mxtools.evidence.corrections.shared import hoist_shared
from mxtools.pipeline.base import Pass
from mxtools.pipeline.working_model import WorkingModel


@dataclass(frozen=True)
class HoistShared(Pass):
    """Move what modules share (common subexpressions) from the first of them to their lowest common ancestor."""

    name: ClassVar[str] = "hoist-shared"

    def apply(self, model: WorkingModel) -> None:
        """Move each node whose result leaves a module that did not return it; without a trace nothing is done."""
        hoist_shared(model)
