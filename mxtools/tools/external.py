"""Run another tool on a model; the tool reads a model file and writes one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, TypeVar

from mxtools.errors import InputError, UsageError
from mxtools.files.writing import write_model
from mxtools.pipeline.working_model import WorkingModel
from mxtools.runtime.processes import filled, run_command

M = TypeVar("M", bound=WorkingModel)

IN, OUT = "{in}", "{out}"
"""What stands in a command's arguments for the file that it reads, and for the file that it writes."""


def check_command(command: Sequence[str]) -> None:
    """Raise UsageError if a command is empty, is a single text, or lacks a placeholder."""
    if isinstance(command, str):
        raise UsageError(f"the command {command!r} is one text", "write ⟨wrap-command⟩")
    if not command:
        raise UsageError("no command is given", "write ⟨wrap-command⟩")
    for placeholder in (IN, OUT):
        if not any(placeholder in argument for argument in command[1:]):
            raise UsageError(
                f"the command has no {placeholder} among its arguments", f"write `⟨dashes⟩{command[0]} {{in}} {{out}}`"
            )


def run_tool(command: Sequence[str], model: M, folder: Path, messages: BinaryIO) -> M:
    """Run a command, without a shell, on a model, and return the model that it writes.

    Both files lie in `folder`, which has to stay as long as the result is used. What the command prints, even on
    stdout, goes to `messages`, which must have a file descriptor. Raises UsageError if there is no such command,
    InputError if it fails or writes no model.
    """
    source, target = folder / "in.onnx", folder / "out.onnx"
    write_model(model.proto, model.weights, source)
    files = {IN: str(source), OUT: str(target)}
    run_command(filled(command, files), messages)
    if not target.exists():
        raise InputError(f"{command[0]} succeeded but did not write {{out}}", "check that {out} is where it writes to")
    try:
        return type(model).read(target)
    except InputError as error:
        raise InputError(f"the result of {command[0]} cannot be used ({error})") from None
