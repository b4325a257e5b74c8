"""Run another tool, which reads a model file and writes one, on a model."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from signal import Signals
from typing import BinaryIO, TypeVar

from mxtools.errors import InputError, UsageError
from mxtools.files.writing import write_model
from mxtools.pipeline.working_model import WorkingModel

M = TypeVar("M", bound=WorkingModel)

IN, OUT = "{in}", "{out}"
"""What stands in a command's arguments for the file that it reads and the file that it writes."""

PATIENCE = 5
"""Seconds that a tool has to end after it was terminated; then it is killed."""
TAIL = 4096
"""Bytes that are kept of the end of a tool's messages, for the error."""


def check_command(command: Sequence[str]) -> None:
    """Raise UsageError where a command is empty or lacks a placeholder."""
    if not command:
        raise UsageError("no command is given", "write ⟨wrap-command⟩")
    for placeholder in (IN, OUT):
        if not any(placeholder in argument for argument in command[1:]):
            raise UsageError(
                f"the command has no {placeholder} among its arguments", f"write `⟨dashes⟩{command[0]} {{in}} {{out}}`"
            )


def run_tool(command: Sequence[str], model: M, folder: Path, messages: BinaryIO) -> M:
    """Run a command, without a shell, on a model, and return the model that it writes.

    Both files lie in `folder`, which has to stay as long as the result is used. What the command prints, on stdout too,
    goes to `messages`, which must have a file descriptor. Raises UsageError where there is no such command, InputError
    where it fails or writes no model.
    """
    source, target = folder / "in.onnx", folder / "out.onnx"
    write_model(model.proto, model.weights, source)
    files = {IN: str(source), OUT: str(target)}
    _run([command[0], *(_filled(argument, files) for argument in command[1:])], messages)
    if not target.exists():
        raise InputError(f"{command[0]} succeeded but did not write {{out}}", "check that {out} is where it writes to")
    try:
        return type(model).read(target)
    except InputError as error:
        raise InputError(f"the result of {command[0]} cannot be used ({error})") from None


def _filled(argument: str, files: dict[str, str]) -> str:
    for placeholder, file in files.items():
        argument = argument.replace(placeholder, file)
    return argument


def _run(command: Sequence[str], messages: BinaryIO) -> None:
    """Run a command to its end; where an exception comes first, stop it."""
    messages.flush()
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=messages.fileno(), stderr=subprocess.PIPE, bufsize=0
        )
    except OSError as error:
        raise UsageError(
            f"{command[0]!r} cannot be run ({error.strerror or error})", "install it, or give its path"
        ) from None
    try:
        last_line = _passed_on(process, messages)
        status = process.wait()
    finally:
        _stop(process)
    if status:
        how = f"was killed by {Signals(-status).name}" if status < 0 else f"failed with exit status {status}"
        raise InputError(f"{command[0]} {how}" + (f": {last_line}" if last_line else ", with nothing on stderr"))


def _passed_on(process: subprocess.Popen[bytes], messages: BinaryIO) -> str:
    """Copy what a process writes to stderr to `messages`, as it comes; return the last line that is not blank."""
    assert process.stderr is not None
    tail = b""
    while piece := os.read(process.stderr.fileno(), 1 << 16):
        messages.write(piece)
        messages.flush()
        tail = (tail + piece)[-TAIL:]
    lines = tail.decode(errors="replace").replace("\r", "\n").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Stop a process that still runs."""
    if process.stderr is not None:
        process.stderr.close()
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
