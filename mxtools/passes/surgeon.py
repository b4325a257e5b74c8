"""The pass `surgeon`."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from typing import ClassVar

from mxtools.pipeline.base import Pass, option
from mxtools.pipeline.working_model import WorkingModel


@dataclass(frozen=True)
class Surgeon(Pass):
    """Edit the graph with a function of your own that is given an onnx_graphsurgeon.Graph.

    The function edits the graph in place, or returns one. What it leaves as it is stays so to the byte: tags, metadata,
    doc strings and all else that graphsurgeon drops are put back. A node whose operator, inputs or attributes changed
    keeps its tag; new ones have none until `mx tag` runs again. Weights are read when the function reads their values.
    """

    name: ClassVar[str] = "surgeon"

    script: str = option("the function: FILE.py:FUNCTION or package.module:FUNCTION; its code is run", MISSING)

    def apply(self, model: WorkingModel) -> None:
        """Run the function."""
        from mxtools.surgeon.editing import edit  # imports onnx-graphsurgeon, which takes long

        edit(model, self.script)
