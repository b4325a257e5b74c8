"""Running somebody else's tool, which works from file to file, on a model."""

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
"""What stands in a command for the files that it reads and writes."""

PATIENCE = 5
"""Seconds that a tool has to end after it was asked to."""
TAIL = 4096
"""Bytes of what a tool says last that are kept."""


def check_command(command: Sequence[str]) -> None:
    """Refuse a command that lacks a placeholder, with UsageError."""
    if not command:
        raise UsageError("no command is given", "write `mx wrap [ONNX] -- COMMAND {in} {out}`")
    for place in (IN, OUT):
        if not any(place in argument for argument in command[1:]):
            raise UsageError(
                f"the command has no {place} among its arguments", f"write `-- {command[0]} {{in}} {{out}}`"
            )


def run_tool(command: Sequence[str], model: M, folder: Path, messages: BinaryIO) -> M:
    """Run a command, without a shell, on a model that is written to a folder; give the one that it writes there.

    What it says, on stdout too, goes to `messages`, a file with a descriptor. Its result needs the folder as long as it
    is used. Raises UsageError where there is no such command, InputError where it fails, or writes no model.
    """
    given, made = folder / "in.onnx", folder / "out.onnx"
    write_model(model.proto, model.weights, given)
    files = {IN: str(given), OUT: str(made)}
    _run([command[0], *(_filled(argument, files) for argument in command[1:])], messages)
    if not made.exists():
        raise InputError(f"{command[0]} ended well and wrote no {{out}}", "see that {out} is where it writes to")
    try:
        return type(model).read(made)
    except InputError as error:
        raise InputError(f"what {command[0]} wrote cannot be used ({error})") from None


def _filled(argument: str, files: dict[str, str]) -> str:
    for place, file in files.items():
        argument = argument.replace(place, file)
    return argument


def _run(command: Sequence[str], messages: BinaryIO) -> None:
    """Run a command to its end; when that is not reached it is stopped."""
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
        last = _passed_on(process, messages)
        status = process.wait()
    finally:
        _stop(process)
    if status:
        how = f"was killed by {Signals(-status).name}" if status < 0 else f"failed with exit status {status}"
        raise InputError(f"{command[0]} {how}" + (f": {last}" if last else ", without a word on stderr"))


def _passed_on(process: subprocess.Popen[bytes], messages: BinaryIO) -> str:
    """Pass on what a process writes to stderr as it comes; return the last line."""
    assert process.stderr is not None
    tail = b""
    while piece := os.read(process.stderr.fileno(), 1 << 16):
        messages.write(piece)
        messages.flush()
        tail = (tail + piece)[-TAIL:]
    lines = tail.decode(errors="replace").replace("\r", "\n").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a process that runs still."""
    if process.stderr is not None:
        process.stderr.close()
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
