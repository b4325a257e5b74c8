"""The pass `project-metadata`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mxtools.evidence.exporter_metadata import annotate_by_metadata
from mxtools.pipeline.base import Pass
from mxtools.pipeline.working_model import WorkingModel


@dataclass(frozen=True)
class ProjectMetadata(Pass):
    """Read scopes from the metadata that torch.export writes on nodes (`pkg.torch.onnx.name_scopes`)."""

    name: ClassVar[str] = "project-metadata"

    def apply(self, model: WorkingModel) -> None:
        """Annotate the nodes whose metadata name a module; ignore modules that the trace does not have."""
        annotate_by_metadata(model)
