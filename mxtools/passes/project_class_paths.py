"""The pass `project-class-paths`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mxtools.evidence.class_paths import annotate_by_class_paths
from mxtools.pipeline.base import Pass
from mxtools.pipeline.working_model import WorkingModel


@dataclass(frozen=True)
class ProjectClassPaths(Pass):
    """Read scopes from paths of classes that another tool wrote on nodes (`winml.hierarchy.tag`), if one call fits."""

    name: ClassVar[str] = "project-class-paths"

    def apply(self, model: WorkingModel) -> None:
        """Annotate nodes without evidence, if exactly one call has their path of classes."""
        annotate_by_class_paths(model)
