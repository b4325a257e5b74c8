"""Running somebody else's tool, which works from file to file, on a model."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from signal import Signals

from onnx import ModelProto

from mxtools.errors import InputError, UsageError
from mxtools.files import model_files
from mxtools.files.model_files import LoadedModel
from mxtools.files.weights import WeightStore

IN, OUT = "{in}", "{out}"
"""What stands in a command for the files that it reads and writes."""

PATIENCE = 5
"""Seconds that a tool has to end after it was asked to."""
TAIL = 4096
"""Bytes of what a tool says last that are kept."""


def check_command(command: Sequence[str]) -> None:
    """Refuse a command that lacks a placeholder, with UsageError."""
    if not command:
        raise UsageError("no command is given: write `mx wrap [ONNX] -- COMMAND {in} {out}`")
    for place in (IN, OUT):
        if not any(place in argument for argument in command[1:]):
            raise UsageError(f"the command has no {place} among its arguments: write `-- {command[0]} {{in}} {{out}}`")


def run_tool(command: Sequence[str], model: ModelProto, weights: WeightStore, folder: Path) -> LoadedModel:
    """Run a command, without a shell, on a model that is written to a folder; give the one that it writes there.

    What it says, on stdout too, goes to stderr. Its result needs the folder as long as it is used. Raises UsageError
    where there is no such command, InputError where it fails, or writes no model.
    """
    given, made = folder / "in.onnx", folder / "out.onnx"
    model_files.write_model(model, weights, given)
    files = {IN: str(given), OUT: str(made)}
    _run([command[0], *(_filled(argument, files) for argument in command[1:])])
    if not made.exists():
        raise InputError(f"{command[0]} ended well and wrote no {{out}}: see that {{out}} is where it writes to")
    try:
        return model_files.read_model(made)
    except InputError as error:
        raise InputError(f"what {command[0]} wrote cannot be used ({error})") from None


def _filled(argument: str, files: dict[str, str]) -> str:
    for place, file in files.items():
        argument = argument.replace(place, file)
    return argument


def _run(command: Sequence[str]) -> None:
    """Run a command to its end; when that is not reached it is stopped."""
    sys.stderr.flush()
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=sys.stderr.fileno(), stderr=subprocess.PIPE, bufsize=0
        )
    except OSError as error:
        raise UsageError(
            f"{command[0]!r} cannot be run ({error.strerror or error}): install it, or give its path"
        ) from None
    try:
        last = _passed_on(process)
        status = process.wait()
    finally:
        _stop(process)
    if status:
        how = f"was killed by {Signals(-status).name}" if status < 0 else f"failed with exit status {status}"
        raise InputError(f"{command[0]} {how}" + (f": {last}" if last else ", without a word on stderr"))


def _passed_on(process: subprocess.Popen[bytes]) -> str:
    """Pass on what a process writes to stderr as it comes; give the last line."""
    assert process.stderr is not None
    tail = b""
    while piece := os.read(process.stderr.fileno(), 1 << 16):
        sys.stderr.buffer.write(piece)
        sys.stderr.buffer.flush()
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
