"""The pass `project-carried`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mxtools.evidence.copies import annotate_by_copies
from mxtools.pipeline.base import Pass
from mxtools.pipeline.working_model import WorkingModel


@dataclass(frozen=True)
class ProjectCarried(Pass):
    """Scopes from the copies of tags that `carry` wrote and that survived: doc strings, names of nodes and values."""

    name: ClassVar[str] = "project-carried"

    def apply(self, model: WorkingModel) -> None:
        """Annotate the nodes that have a copy; names count only where the model says that they hold scopes."""
        annotate_by_copies(model)
