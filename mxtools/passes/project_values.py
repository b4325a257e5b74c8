"""The pass `project-values`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mxtools.evidence.between_values import annotate_by_values
from mxtools.pipeline.base import Pass
from mxtools.pipeline.working_model import WorkingModel


@dataclass(frozen=True)
class ProjectValues(Pass):
    """Scopes by value: a node lies in a module if it lies between tensors that are the module's inputs and outputs."""

    name: ClassVar[str] = "project-values"

    def apply(self, model: WorkingModel) -> None:
        """Run the graph on the recorded inputs and annotate the nodes that have no direct evidence.

        Without a sidecar with recorded values nothing is done. Raises InputError where the graph does not run.
        """
        annotate_by_values(model)
