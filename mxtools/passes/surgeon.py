"""The pass `surgeon`."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from typing import ClassVar

from mxtools.files.stream import keep_all
from mxtools.pipeline.base import Pass, option
from mxtools.pipeline.working_model import WorkingModel


@dataclass(frozen=True)
class Surgeon(Pass):
    """Edit the graph with a function of yours, which gets an onnx_graphsurgeon.Graph.

    The function edits the graph in place, or returns one. Everything that it does not touch stays, to the byte: tags,
    metadata, doc strings and everything else that graphsurgeon drops. A node whose operator, inputs or attributes
    changed keeps its tag; new nodes have none until `mx tag` runs again. Weights are read only if the function reads
    their values.
    """

    name: ClassVar[str] = "surgeon"

    script: str = option("the function: FILE.py:FUNCTION or package.module:FUNCTION; its code is run", MISSING)

    def apply(self, model: WorkingModel) -> None:
        """Run the function."""
        from mxtools.surgeon.editing import edit  # imports onnx-graphsurgeon, which takes long

        keep_all()  # the user's code may read what a program before this one writes
        edit(model, self.script)
