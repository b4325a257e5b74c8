"""Run another tool on a tagged model, and carry the tags over to its result."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, TypeVar

from mxtools.files.weights import inline_within, keep_external
from mxtools.pipeline.pipeline import PipelineReport
from mxtools.pipeline.working_model import WorkingModel
from mxtools.strategies import table
from mxtools.tools.external import run_tool

M = TypeVar("M", bound=WorkingModel)


def wrap(
    model: M, command: Sequence[str], folder: Path, messages: BinaryIO, inline: bool = False
) -> tuple[M, PipelineReport]:
    """Run a command on a tagged model, in a folder; return its result, tagged, and the reports of the passes.

    `messages` gets what the tool prints. The result needs the folder as long as it is used, unless its weights are
    taken `inline`. Raises InputError if no node has a scope or the tool fails, UsageError if there is no such command.
    """
    made = run_tool(command, model, folder, messages)
    keep_external(made.proto, made.weights, model.proto, model.weights)
    if inline:
        inline_within(made.proto, made.weights, folder)
    return carried(made, model)


def carried(made: M, model: WorkingModel) -> tuple[M, PipelineReport]:
    """Carry the tags of a model over to what a tool made of it; return that, and what the passes report."""
    made.previous, made.sidecar, made.values = model, model.sidecar, model.values
    return made, table.get("previous").passes().run(made)
