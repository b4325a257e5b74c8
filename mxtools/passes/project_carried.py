"""The pass `project-carried`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mxtools.evidence.copies import annotate_by_copies
from mxtools.pipeline.base import Pass
from mxtools.pipeline.working_model import WorkingModel


@dataclass(frozen=True)
class ProjectCarried(Pass):
    """Read scopes from the copies of tags that `carry` wrote: doc strings, names of nodes and tensors."""

    name: ClassVar[str] = "project-carried"

    def apply(self, model: WorkingModel) -> None:
        """Annotate the nodes that have a copy; names count only if the model says that they contain scopes."""
        annotate_by_copies(model)
