"""The pass `project-values`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mxtools.evidence.between_values import annotate_by_values
from mxtools.pipeline.base import Pass
from mxtools.pipeline.working_model import WorkingModel


@dataclass(frozen=True)
class ProjectValues(Pass):
    """Place nodes by values: nodes between tensors that equal a module's inputs and outputs belong to this module."""

    name: ClassVar[str] = "project-values"

    def apply(self, model: WorkingModel) -> None:
        """Run the graph on the recorded inputs and annotate the nodes that have no direct evidence.

        Do nothing without a sidecar with recorded values. Raises InputError if the graph does not run and no node has
        evidence of another kind.
        """
        annotate_by_values(model)
