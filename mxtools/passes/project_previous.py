"""The pass `project-previous`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mxtools.matching.after_tool import annotate_by_previous
from mxtools.pipeline.base import Pass
from mxtools.pipeline.working_model import WorkingModel


@dataclass(frozen=True)
class ProjectPrevious(Pass):
    """Take scopes from the tagged model that this one was made from, by names, weights, and what follows from these."""

    name: ClassVar[str] = "project-previous"

    def apply(self, model: WorkingModel) -> None:
        """Annotate the nodes that make the same tensors, or use the same weights, as a node of the earlier model.

        Do nothing without an earlier model. Raises InputError if the earlier model has no tags.
        """
        annotate_by_previous(model)
