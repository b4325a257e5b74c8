"""The pass `move-to-operations`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mxtools.evidence.corrections.operations import move_to_operations
from mxtools.pipeline.base import Pass
from mxtools.pipeline.working_model import WorkingModel


@dataclass(frozen=True)
class MoveToOperations(Pass):
    """Move the work of forward hooks into the hooked module; TorchScript's names put it into the caller."""

    name: ClassVar[str] = "move-to-operations"

    def apply(self, model: WorkingModel) -> None:
        """Move nodes down into the calls in which the trace saw their operations run."""
        move_to_operations(model)
