"""The pass `graft`."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import ClassVar

from mxtools.graft.put_back import GraftReport, put_back
from mxtools.pipeline.base import Pass, option
from mxtools.pipeline.working_model import WorkingModel


@dataclass(frozen=True)
class Graft(Pass):
    """Put a part that `filter` cut out, and that another tool changed, back in its place."""

    name: ClassVar[str] = "graft"

    part: str | WorkingModel = option("ONNX file of the part; '-' is stdin", MISSING)
    data_dir: str | None = option("folder of the part's external data; by default the part's folder")

    verify: bool = option("run the model without and with the part; fail if they differ", False)

    def apply(self, model: WorkingModel) -> GraftReport:
        """Replace the nodes that the part was cut from.

        Raises InputError if the part cannot be read, or its inputs and outputs do not fit the model, CheckError
        if the model computes something else with it.
        """
        part = self.part
        if isinstance(part, str):
            part = WorkingModel.read(Path(part), data_dir=Path(self.data_dir) if self.data_dir else None)
        return put_back(model, part, self.verify)
