"""The pass `project-parameters`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mxtools.evidence.parameters import annotate_by_parameters
from mxtools.pipeline.base import Pass, option
from mxtools.pipeline.working_model import WorkingModel


@dataclass(frozen=True)
class ProjectParameters(Pass):
    """Scopes of nodes that use a module's parameter or buffer, known by its name (`encoder.layer.0.dense.weight`)."""

    name: ClassVar[str] = "project-parameters"

    names: str | None = option(
        "without a trace: a file with the names of the state dict, one a line, or .safetensors; else those count that "
        "are named like one, and with which node names, metadata or repeated modules agree"
    )
    alone: bool = option("without a trace: every initializer counts that is named like one", False)

    def apply(self, model: WorkingModel) -> None:
        """Annotate nodes without evidence that read a weight of a module; InputError where its shape is another."""
        annotate_by_parameters(model, Path(self.names) if self.names else None, self.alone)
