"""Large models in a pipe between two commands: the graph comes first, and the weights flow by behind it.

In a file, weights lie in the middle of a graph. A reader of a pipe would know the whole graph only when all weights
have come, and to keep a gigabyte of them takes longer than the work of most commands. So a command that writes a large
model into a pipe orders the same fields of protobuf in another way, and begins with an announcement:

    announcement { holes: 261120 bytes from byte 9120 on, …; and the few bytes between and behind the holes }
    graph { node …, input …, output …, then initializer { dims: 65536 name: "w" raw_data: <256 KB> } … }
    ir_version, opset_import, metadata_props …

Every other program sees an ONNX model with a field that it does not know, and skips that. Our reader takes the
announcement and what comes before the first hole, and so has all bytes but those in the holes (`PipeBytes`). It reads
on when a model is written: then the system moves the weights from pipe to pipe, or to a file, and drops the others.
If anything else needs weights, the rest of the pipe is kept in a temporary file first.

The announcement has a digest of what comes before the first hole: another program may have changed the model and
passed the field on. A command writes the end of its own model only when it has seen the end of the one it reads.
"""

from __future__ import annotations

import atexit
import os
import stat
import tempfile
from bisect import bisect_right
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from hashlib import blake2b
from pathlib import Path
from typing import IO

from mxtools.errors import InputError
from mxtools.files import wire
from mxtools.files.regular import PIECE, Bytes, FileBytes, has_places, receive, widen

WORTH_IT = 1 << 26
"""Bytes of weights from which on a model is announced. To keep fewer takes some hundredths of a second."""
LONGEST = 1 << 28
"""Bytes of the longest announcement, and of the longest graph behind it, enough for a million nodes: both are read into
memory before anything of them can be believed."""
MOVED = 1 << 16
"""Bytes from which on a tensor is a hole: biases and the like are part of the announcement, for passes look at them."""
BEGINNING = 1 << 10
"""Bytes of each tensor that the announcement has: they tell most tensors apart."""
_KEY = wire.varint(wire.ANNOUNCEMENT << 3 | 2)
_DIGEST = 16

_unread: list[PipeBytes] = []
"""Models whose weights are still in a pipe."""


def announced(file: IO[bytes], skeleton: bytes, source: Bytes) -> list[wire.Part] | None:
    """Return the parts of a model that is announced; None if the file is no pipe, or the weights are not worth it.

    For the other arguments see `wire.joined`.
    """
    if len(source) < WORTH_IT or not _is_pipe(file):
        return None
    ordered = wire.joined(skeleton, source, weights_last=True)
    if sum(len(part) for part in ordered if isinstance(part, wire.Stretch)) < WORTH_IT:
        return None
    before: list[bytes | memoryview] = []
    between: list[bytes | memoryview] = []
    numbers: list[int] = []
    at = 0
    for part in ordered:
        known = _beginning(part)
        (between if numbers else before).append(known)
        if len(known) < len(part):
            numbers += (at + len(known), len(part) - len(known))
        at += len(part)
    content = b"".join([*map(wire.varint, (at, len(numbers) // 2, *numbers)), *between])
    value = _digest(content, *before) + content
    field = _KEY + wire.varint(len(value)) + value
    fits = numbers and max(len(value), numbers[0]) <= LONGEST and len(field) + at <= wire.LIMIT
    return [field, *ordered] if fits else None


def _beginning(part: wire.Part) -> bytes | memoryview:
    """Return what the announcement has of a part of a model."""
    if isinstance(part, wire.Stretch):
        return part.beginning(len(part) if len(part) < MOVED else BEGINNING)
    return part


def read_pipe(pipe: IO[bytes], name: str) -> FileBytes:
    """Return the bytes of a model from a pipe, or another stream without positions.

    They are copied to an unnamed temporary file, but not if the model is announced, and `pipe` is not buffered.
    """
    begun = b""
    if hasattr(os, "splice") and hasattr(pipe, "readall") and _is_pipe(pipe):
        widen(pipe.fileno())
        begun = _taken(pipe, len(_KEY))
        if begun == _KEY:
            found, begun = _announced(pipe, name)
            if found:
                return found
    return FileBytes(_copied(pipe, begun), name)


def hand_on(source: Bytes, parts: Sequence[wire.Part]) -> None:
    """Let the weights of a model flow from their pipe into what is written, if they are needed in the order they have.

    They cannot be read again. Called before the parts are written for the last time.
    """
    if isinstance(source, PipeBytes):
        source.hand_on([(part.start, len(part)) for part in parts if isinstance(part, wire.Stretch)])


def finish(source: Bytes) -> None:
    """Drop what is left in a pipe, before the last part is written; InputError if the model in it is not whole."""
    if isinstance(source, PipeBytes):
        source.finish()


def keep_all() -> None:
    """Copy what is left in pipes to temporary files."""
    for model in tuple(_unread):
        model.keep()


class PipeBytes(FileBytes):
    """The bytes of an announced model, whose weights are still in the pipe."""

    def __init__(self, pipe: IO[bytes], name: str, known: list[tuple[int, bytes]], end: int) -> None:
        """Take the pipe behind the first of the known stretches, by where they start; between them are the holes."""
        self._file, self._name, self._size = pipe, name, end
        self._base, self._window = 0, b""
        self._starts = [start for start, _ in known]
        self._known = [content for _, content in known]
        self._at = len(self._known[0])
        self._flows = False
        _unread.append(self)

    def keep(self) -> None:
        """Copy the rest of the pipe to a temporary file; InputError if the model is not whole."""
        if self._flows:
            raise RuntimeError("weights were read after they had been handed on")
        if self not in _unread:
            return
        _unread.remove(self)
        self._file = _copied(self._file, self._known[0])
        kept = os.fstat(self._file.fileno()).st_size
        if kept != self._size:
            raise self._not_whole(kept > self._size)
        for start, content in zip(self._starts, self._known, strict=True):
            if super()._read(start, len(content)) != content:
                raise self._not_whole()

    def hand_on(self, stretches: Sequence[tuple[int, int]]) -> None:
        """Let stretches, which are all that is still needed, be written from the pipe; keep them if they cannot be."""
        at = self._at
        for start, length in stretches:
            unknown, end = self._unknown(start), start + length
            if unknown < end:
                if unknown < at or end > self._size:
                    self.keep()
                    return
                at = end
        self._flows = self in _unread

    def finish(self) -> None:
        """Read to the end of the pipe; InputError if the model in it is not whole, or not all."""
        if self in _unread and self._flows:
            self._advance(self._size)
            if _taken(self._file, 1):
                raise self._not_whole(longer=True)
            _unread.remove(self)

    def write_to(self, file: IO[bytes], start: int, length: int) -> None:
        """Write a number of bytes, from a place on, to a file: from the pipe, if they were handed on."""
        if not self._flows:
            self.keep()
            super().write_to(file, start, length)
            return
        end = start + length
        unknown = min(self._unknown(start), end)
        file.write(self._read(start, unknown - start))
        if unknown < end:
            self._advance(unknown)
            self._advance(end, file)

    def fileno(self) -> int:
        """Return the descriptor of a file with all bytes."""
        self.keep()
        return super().fileno()

    def _unknown(self, at: int) -> int:
        """Return the first place from one on that is in a hole, or the end of the model."""
        index = bisect_right(self._starts, at) - 1
        return max(at, self._starts[index] + len(self._known[index]))

    def _around(self, at: int) -> tuple[int, bytes]:
        index = bisect_right(self._starts, at) - 1
        start, content = self._starts[index], self._known[index]
        return (start, content) if at < start + len(content) else super()._around(at)

    def _read(self, at: int, length: int) -> bytes:
        index = bisect_right(self._starts, at) - 1
        first = at - self._starts[index]
        content = self._known[index]
        if first + length <= len(content):
            return content[first : first + length]
        self.keep()
        return super()._read(at, length)

    def _advance(self, end: int, file: IO[bytes] | None = None) -> None:
        """Take bytes up to a place out of the pipe, for a file or to drop them; known ones must be what they should."""
        with ExitStack() as stack:
            into = file or stack.enter_context(Path(os.devnull).open("wb"))
            move = _way(self._file, into)
            while self._at < end:
                index = bisect_right(self._starts, self._at) - 1
                first = self._at - self._starts[index]
                if expected := self._known[index][first : first + end - self._at]:
                    if _taken(self._file, len(expected)) != expected:
                        raise self._not_whole()
                    into.write(expected)
                    self._at += len(expected)
                else:
                    upto = min(end, self._starts[index + 1])
                    if not move(upto - self._at):
                        raise self._not_whole()
                    self._at = upto

    def _not_whole(self, longer: bool = False) -> InputError:
        what = "goes on behind the model" if longer else "ended, or changed, before the model did"
        return InputError(f"{self._name} {what}", "check the command that writes it")


def _announced(pipe: IO[bytes], name: str) -> tuple[PipeBytes | None, bytes]:
    """Return the model that is announced, and nothing; or None, and what was taken out of the pipe."""
    taken = _KEY
    while len(taken) < len(_KEY) + _DIGEST and (more := _taken(pipe, 1)):
        taken += more
        if more[0] < 0x80:
            break
    with suppress(wire.WireError, IndexError):
        length, _ = wire.read_varint(memoryview(taken), len(_KEY), len(taken))
        if not _DIGEST < length <= LONGEST:
            return None, taken
        value = _taken(pipe, length)
        taken += value
        end, holes, between = _described(value)
        head = _taken(pipe, holes[0][0])
        taken += head
        if len(value) == length and _digest(value[_DIGEST:], head) == value[:_DIGEST]:
            known, at = [(0, head)], 0
            for (start, size), (after, _) in zip(holes, [*holes[1:], (end, 0)], strict=True):
                gap = after - start - size
                known.append((start + size, between[at : at + gap]))
                at += gap
            return PipeBytes(pipe, name, known, end), b""
    return None, taken


def _described(value: bytes) -> tuple[int, list[tuple[int, int]], bytes]:
    """Return the size of an announced model, its holes, and the bytes between and behind them; or WireError."""
    at = _DIGEST

    def number() -> int:
        nonlocal at
        found, at = wire.read_varint(memoryview(value), at, len(value))
        return found

    end = number()
    holes = [(number(), number()) for _ in range(min(number(), len(value)))]
    upto = 0
    for start, size in holes:
        if start < upto:
            raise wire.WireError("holes overlap")
        upto = start + size
    between = value[at:]
    if not holes or end - holes[0][0] - sum(size for _, size in holes) != len(between) or upto > end:
        raise wire.WireError("an announcement does not add up")
    if holes[0][0] > LONGEST:
        raise wire.WireError("a graph is too long")
    return end, holes, between


def _copied(pipe: IO[bytes], begun: bytes) -> IO[bytes]:
    """Return an unnamed temporary file with what was read of a pipe already, and all that is still in it."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 - it is closed with the model
    file.write(begun)
    file.flush()
    receive(pipe, file)
    file.flush()
    return file


def _digest(*contents: bytes | memoryview) -> bytes:
    state = blake2b(digest_size=_DIGEST)
    for content in contents:
        state.update(content)
    return state.digest()


def _is_pipe(file: IO[bytes]) -> bool:
    with suppress(OSError, AttributeError, ValueError):
        return stat.S_ISFIFO(os.fstat(file.fileno()).st_mode)
    return False


def _taken(pipe: IO[bytes], length: int) -> bytes:
    """Take a number of bytes out of a pipe; fewer if it ends."""
    parts: list[bytes] = []
    while length > 0 and (part := os.read(pipe.fileno(), min(PIECE, length))):
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def _way(pipe: IO[bytes], file: IO[bytes]) -> Callable[[int], bool]:
    """Return a function that moves a number of bytes from a pipe to a file, and returns whether there were so many.

    The system moves them itself, as far as it can.
    """
    source, target, has_place = pipe.fileno(), -1, has_places(file)
    with suppress(OSError, AttributeError, ValueError):  # no descriptor
        target = file.fileno()
        if _is_pipe(file):
            widen(target)

    def spliced(length: int) -> int:
        """Move bytes without reading them; return how many were moved."""
        done = 0
        file.flush()
        at = file.tell() if has_place else None
        with suppress(OSError):  # a file to which the system cannot move bytes
            while done < length:
                count = os.splice(source, target, length - done, offset_dst=None if at is None else at + done)
                if not count:
                    break
                done += count
        if at is not None:
            file.seek(at + done)
        return done

    def move(length: int) -> bool:
        left = length - (spliced(length) if target >= 0 else 0)
        while left and (part := os.read(source, min(PIECE, left))):
            file.write(part)
            left -= len(part)
        return not left

    return move


@atexit.register
def _drain() -> None:
    """Read what nobody needed, so that what writes into the pipe, such as `tee`, can end its work."""
    with suppress(OSError, KeyboardInterrupt):
        for model in _unread:
            while os.read(model._file.fileno(), PIECE):
                pass
