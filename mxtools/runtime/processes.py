"""Running other programs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from signal import Signals
from typing import BinaryIO

from mxtools.errors import InputError, UsageError

PATIENCE = 5
"""Seconds in which a tool must end after it was terminated; after that it is killed."""
TAIL = 4096
"""How many bytes of the end of a tool's messages are kept, for the error."""


def filled(command: Sequence[str], files: Mapping[str, str]) -> list[str]:
    """Return a command with files in place of the placeholders in its arguments.

    >>> filled(["tool", "--model={in}"], {"{in}": "a.onnx"})
    ['tool', '--model=a.onnx']
    """

    def with_files(argument: str) -> str:
        for placeholder, file in files.items():
            argument = argument.replace(placeholder, file)
        return argument

    return [command[0], *map(with_files, command[1:])]


def run_command(command: Sequence[str], messages: BinaryIO) -> None:
    """Run a command to its end, without a shell; if an exception comes first, stop it.

    What the command prints, even on stdout, goes to `messages`, which must have a file descriptor. Raises UsageError if
    there is no such command, InputError if it fails.
    """
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
        if not last_line:
            raise InputError(f"{command[0]} {how}, with nothing on stderr", "run it by itself to see why")
        raise InputError(f"{command[0]} {how}: {last_line}")


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
