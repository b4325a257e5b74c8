"""The pass `move-arguments-out`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mxtools.evidence.corrections.arguments import move_arguments_out
from mxtools.evidence.corrections.unseen import move_unseen_out
from mxtools.pipeline.base import Pass
from mxtools.pipeline.working_model import WorkingModel


@dataclass(frozen=True)
class MoveArgumentsOut(Pass):
    """Move auxiliary nodes that only prepare an argument of a module out of the module, to its caller."""

    name: ClassVar[str] = "move-arguments-out"

    def apply(self, model: WorkingModel) -> None:
        """Move each node that computes an argument of its module; do nothing without a trace."""
        move_unseen_out(model)
        move_arguments_out(model)
