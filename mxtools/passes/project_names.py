"""The pass `project-names`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mxtools.evidence.node_names import annotate_by_names
from mxtools.pipeline.base import Pass
from mxtools.pipeline.working_model import WorkingModel


@dataclass(frozen=True)
class ProjectNames(Pass):
    """Read scopes from node names that contain modules, such as TorchScript's (`/encoder/layer.0/attention/MatMul`)."""

    name: ClassVar[str] = "project-names"

    def apply(self, model: WorkingModel) -> None:
        """Annotate the nodes whose names contain modules; nodes with evidence from metadata keep it."""
        annotate_by_names(model)
