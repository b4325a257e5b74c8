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
    """Give nodes that use a module's parameter or buffer, known by name (`encoder.layer.0.dense.weight`), its scope."""

    name: ClassVar[str] = "project-parameters"

    names: str | None = option(
        "without a trace: a file with the names of the state dict, one per line, or .safetensors; by default, names "
        "count that look like names of parameters and agree with node names, metadata or repeated modules"
    )
    alone: bool = option("without a trace: trust all names that look like names of parameters", False)

    def apply(self, model: WorkingModel) -> None:
        """Annotate nodes without evidence that read a weight of a module; InputError if its shape differs."""
        annotate_by_parameters(model, Path(self.names) if self.names else None, self.alone)
