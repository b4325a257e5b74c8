"""The pass `optimize`."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from typing import ClassVar

from mxtools.pipeline.base import Pass, option
from mxtools.pipeline.working_model import WorkingModel
from mxtools.tools.optimizers import optimize


@dataclass(frozen=True)
class Optimize(Pass):
    """Optimise the graph with a tool, and project the tags that the model had onto the result."""

    name: ClassVar[str] = "optimize"
    then: ClassVar[str] = (
        "untag,project-previous,resolve-auxiliary,assign-fused-previous,restore-names,record-absent,carry"
    )

    with_: str = option("the tool: onnxscript, onnxslim, or ort-basic (ONNX Runtime's basic optimisations)", MISSING)

    def apply(self, model: WorkingModel) -> None:
        """Replace the graph by the tool's result; inputs, outputs and the model's metadata stay."""
        optimize(model, self.with_)
