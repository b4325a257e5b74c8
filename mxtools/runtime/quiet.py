"""Keep what libraries print away from the user, and collect it for a log."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import RLock

TURN = RLock()
"""Held inside `quiet`: what it redirects and sets belongs to the whole process, and so does what exporters patch.

Hold it also to look at a module that another thread may be exporting, because then its `forward` is the exporter's.
"""


class Log:
    """What was written to stdout and stderr inside `quiet`."""

    text = ""


@contextmanager
def quiet() -> Iterator[Log]:
    """Catch what Python and native code write to stdout and stderr in the block; afterwards it is in `text`.

    Native code writes to the file descriptors 1 and 2 directly, so these are redirected, not `sys.stdout`. They and all
    settings are restored, whether the block ends or raises. Threads take turns: if two of them redirected at a time,
    the later one would restore what the earlier one redirected to.
    """
    log = Log()
    with TURN, tempfile.TemporaryFile() as sink, ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(_environment({"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1"}))
        stack.enter_context(_hub_logging_off())
        for descriptor in (1, 2):
            stack.enter_context(_redirected(descriptor, sink.fileno()))
        try:
            yield log
        finally:
            _flush()
            sink.seek(0)
            log.text = sink.read().decode(errors="replace")


@contextmanager
def _redirected(descriptor: int, target: int) -> Iterator[None]:
    """Let a file descriptor write to another one inside the block."""
    _flush()
    kept = os.dup(descriptor)
    os.dup2(target, descriptor)
    try:
        yield
    finally:
        _flush()
        os.dup2(kept, descriptor)
        os.close(kept)


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set environment variables inside the block."""
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


@contextmanager
def _hub_logging_off() -> Iterator[None]:
    """Silence the logger of the transformers library, which has a stream of its own and so escapes redirection."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not stream.closed:
            stream.flush()


def where_raised(error: BaseException) -> str:
    """Return file name and line of the innermost frame of an exception, `model.py:12`; '' if it was not raised."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return f"{Path(frame.tb_frame.f_code.co_filename).name}:{frame.tb_lineno}" if frame else ""


def error_line(error: BaseException, limit: int = 300) -> str:
    """Return an exception as one short line: its class and the first line of its message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:limit]}" if lines else type(error).__name__
