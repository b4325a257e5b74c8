"""stdin, stdout and files by their names on a command line; '-' or nothing is a pipe."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING

from mxtools.errors import printable

from .terminal import write_data

if TYPE_CHECKING:
    from mxtools.pipeline.working_model import WorkingModel

FileOrPipe = str | Path | None
"""The name of a file; '-' or nothing is stdin or stdout."""


def is_pipe(name: FileOrPipe) -> bool:
    """Return whether a source or an output is stdin or stdout."""
    return name is None or str(name) in ("", "-")


def source_name(source: FileOrPipe) -> str:
    """Return the name of a source in messages."""
    return "stdin" if is_pipe(source) else str(source)


def model_source(source: FileOrPipe, flowing: bool = False) -> Path | IO[bytes]:
    """Return the path or the open stdin from which to read a model; UsageError if stdin is a terminal.

    If the model is `flowing`, its weights can stay in the pipe: the command must write it with `write_model`, which
    also finds out whether it has come whole.
    """
    from mxtools.errors import InputError, UsageError
    from mxtools.files.handles import is_fifo

    if not is_pipe(source):
        return Path(str(source))
    if os.isatty(0):
        raise UsageError("a model is expected on stdin, which is a terminal", "give a file or use a pipe")
    try:
        stdin = open(0, "rb", closefd=False)  # noqa: SIM115 - the caller reads it
        return _flowing_stdin() if flowing and is_fifo(stdin) else stdin
    except OSError as error:
        raise InputError(f"stdin cannot be read ({error.strerror or error})", "give an ONNX file") from None


def _flowing_stdin() -> IO[bytes]:
    """Return stdin, out of reach of users' code and of other programs that the command starts."""
    from mxtools.files.stream import Flowing

    pipe = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return Flowing(pipe, "rb")


def read_bytes(source: FileOrPipe) -> bytes:
    """Return the bytes of a file or of stdin; InputError if they cannot be read."""
    from mxtools.errors import InputError
    from mxtools.files import regular

    if not is_pipe(source):
        return regular.read_bytes(Path(str(source)))
    try:
        return sys.stdin.buffer.read()
    except OSError as error:
        raise InputError(f"stdin cannot be read ({error.strerror or error})", "give a file that exists") from None


def write_model(model: WorkingModel, output: FileOrPipe, data_dir: Path | None = None) -> None:
    """Write a model to a file or to stdout; weights that are still in a pipe cannot be read afterwards."""
    from mxtools.files import outputs, writing

    if is_pipe(output):
        writing.write_stream(model.proto, model.weights, sys.stdout.buffer, data_dir or Path())
    else:
        outputs.claim(Path(str(output)))
        writing.write_model(model.proto, model.weights, Path(str(output)), last=True)


def write_text(text: str, output: FileOrPipe) -> None:
    """Write text, such as JSON, to a file or to stdout, in UTF-8 whatever the terminal's encoding is."""
    from mxtools.files import atomic, outputs

    if is_pipe(output):
        write_data(text.encode(errors="backslashreplace"))  # half a surrogate pair is written as in JSON
    else:
        outputs.claim(Path(str(output)))
        atomic.write_text(text, Path(str(output)))


def put(text: str) -> None:
    """Print a line for people on stdout; characters that are not printable are written out."""
    sys.stdout.write(printable(text) + "\n")


def check_output(
    output: FileOrPipe, *others: Path | None, readable: bool = False, replacing: str | None = None
) -> None:
    """Refuse files that may not be written, and a terminal for output that people cannot read, before any work.

    `others` are the files of further options; None is an option that was not given. `replacing` is the model that
    `output` may replace; it may be no other file that the command reads. Output that is `readable` may go to a
    terminal.
    """
    from mxtools.errors import OutputError, UsageError
    from mxtools.files.outputs import claim

    if not is_pipe(output):
        claim(Path(str(output)), None if replacing is None else 0 if is_pipe(replacing) else Path(replacing))
    elif not readable and sys.stdout.isatty():
        raise UsageError("this output is not meant for a terminal", "give -o FILE, or use a pipe")
    known = {os.path.realpath(str(name)) for name in (output, replacing) if not is_pipe(name)}
    for other in others:
        if other is not None:
            claim(other)
            if os.path.realpath(other) in known:
                raise OutputError(f"{other} is given twice, as what is read or written", "give another file")
            known.add(os.path.realpath(other))
