"""The pass `hoist-shared`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mxtools.evidence.corrections.shared import hoist_shared
from mxtools.pipeline.base import Pass
from mxtools.pipeline.working_model import WorkingModel


@dataclass(frozen=True)
class HoistShared(Pass):
    """Move common subexpressions from the first module that uses them to the lowest common ancestor of all users."""

    name: ClassVar[str] = "hoist-shared"

    def apply(self, model: WorkingModel) -> None:
        """Move each node whose result leaves a module that did not return it; do nothing without a trace."""
        hoist_shared(model)
