"""Large models in a pipe between two commands: the graph comes first, and the weights flow by behind it.

In a file, weights lie in the middle of a graph. A reader of a pipe would know the whole graph only when all weights
have come, and to keep a gigabyte of them takes longer than the work of most commands. So a command that writes a large
model into a pipe orders the same fields of protobuf in another way, and begins with an announcement:

    producer_name: "weights come last (mxtools) …": where they will be, and the few bytes between and behind them
    graph { node …, input …, output …, then initializer { dims: 65536 name: "w" raw_data: <256 KB> } … }
    ir_version, producer_name: "pytorch", opset_import, metadata_props …

In protobuf, the last of several values of a field counts. So every other program sees an ordinary model, and passes no
announcement on. Our reader takes the announcement and what comes before the first weight, and so has all bytes but
those in *holes*, the large weights (`PipeBytes`). It reads on when the model is written: then the system moves the
weights from pipe to pipe, or to a file, and drops those that are not needed. If anything else needs weights, the rest
of the pipe is kept in a temporary file first, as it is if nobody takes what is written: a program such as `tee`, which
writes into two pipes, must not wait for a command that waits for the other pipe.

The digest in the announcement is that of all that the reader believes: it protects from a file that was put together
from others. The last byte of the last weight is written only when the end of the model that is read has come. So if
anything before a command fails, no program can read what it has written.
"""

from __future__ import annotations

import atexit
import binascii
import io
import os
import tempfile
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import IO

from mxtools.errors import InputError
from mxtools.files import wire
from mxtools.files.handles import is_fifo, receive, widen
from mxtools.files.regular import PIECE, Bytes, FileBytes
from mxtools.files.targets import Target, taken, target_of

WORTH_IT = 1 << 26
"""Bytes of large weights that a model has at least if it is announced. To keep fewer takes hundredths of a second."""
MOVED = 1 << 14
"""Bytes of the smallest weight that is a hole. Biases and the like are announced, because passes look at them."""
BEGINNING = 1 << 10
"""Bytes of each hole's weight that the announcement has: they tell most weights apart."""
SHARE = 8
"""The holes must be at least so many times as large as what is announced, because a reader has that in memory."""
LONGEST = 1 << 25
"""Bytes of the longest announcement, and of the longest graph behind it: some 100 000 nodes."""
FLOWS = hasattr(os, "splice")
"""Whether the system can move bytes from pipe to pipe; elsewhere, all that comes from a pipe is kept in a file."""
_DIGEST = 16
_LENGTH = 6
"""Bytes of a key and a length that is believed."""

_unread: list[PipeBytes] = []
"""Models whose weights are still in a pipe."""


class Flowing(io.FileIO):
    """A pipe that only one command reads, so that weights can stay in it: the command will write the model."""


def announced(file: IO[bytes], skeleton: bytes, source: Bytes) -> list[wire.Part] | None:
    """Return the parts of a model that is announced; None if the file is no pipe, or the weights are not worth it.

    For the other arguments see `wire.joined`.
    """
    if len(source) < WORTH_IT or not FLOWS or not is_fifo(file):
        return None
    ordered = wire.joined(skeleton, source, weights_last=True)
    known = [min(len(part), _announced_bytes(part)) for part in ordered]
    holes: list[int] = []
    at = 0
    for part, length in zip(ordered, known, strict=True):
        if length < len(part):
            holes += (at + length, len(part) - length)
        at += len(part)
    small = sum(length for part, length in zip(ordered, known, strict=True) if isinstance(part, wire.Stretch))
    large = sum(holes[1::2])
    if not holes or large < WORTH_IT or small > large // SHARE or holes[0] > LONGEST:
        return None
    begun = b"".join(_beginning(part, length) for part, length in zip(ordered, known, strict=True))
    head, between = begun[: holes[0]], begun[holes[0] :]
    closing = b"" if wire.names_producer(skeleton) else wire.NO_PRODUCER
    numbers = map(wire.varint, (len(head), at, len(closing) and 1, len(holes) // 2, *holes))
    content = b"".join([*numbers, between])
    text = wire.ANNOUNCED + binascii.b2a_base64(_digest(content, head) + content, newline=False)
    field = wire.producer(text)
    if len(text) > LONGEST or len(field) + at + len(closing) > wire.LIMIT:
        return None
    return [field, *ordered[:-1], bytes(_beginning(ordered[-1], known[-1])) + closing]


def _announced_bytes(part: wire.Part) -> int:
    """Return how many bytes of a part an announcement has at most."""
    return len(part) if not isinstance(part, wire.Stretch) or len(part) < MOVED else BEGINNING


def _beginning(part: wire.Part, length: int) -> bytes | memoryview:
    return part.beginning(length) if isinstance(part, wire.Stretch) else part


def read_pipe(pipe: IO[bytes], name: str) -> FileBytes:
    """Return the bytes of a model from a pipe, or another stream without positions.

    They are copied to an unnamed temporary file, but not those of an announced model if the pipe is `Flowing`.
    """
    begun = b""
    if FLOWS and isinstance(pipe, Flowing):
        widen(pipe.fileno())
        found, begun = _read_announced(pipe, name)
        if found:
            return found
    return FileBytes(_copied(pipe, begun), name)


def keep_all() -> None:
    """Keep what is left in pipes: what a command reads next may come only when they were read."""
    for model in tuple(_unread):
        model.keep()


def abandon() -> None:
    """Leave pipes as they are: the user interrupted, and does not want to wait for what writes into them."""
    _unread.clear()


class PipeBytes(FileBytes):
    """The bytes of an announced model, whose weights are still in the pipe.

    `_known` has all other bytes, in stretches that begin at `_starts`; `_at` is the place that the pipe has come to.
    `_pipe` is None when nothing is left in it. Once a model was not whole, everything fails with that error.
    """

    def __init__(self, pipe: IO[bytes], name: str, known: list[tuple[int, bytes]], end: int, closing: bytes) -> None:
        """Take the pipe behind the first known stretch; behind the model, the closing bytes are to come."""
        self._file, self._name, self._size = pipe, name, end
        self._base, self._window = 0, b""
        self._starts = [start for start, _ in known]
        self._known = [content for _, content in known]
        self._at, self._closing = len(self._known[0]), closing
        self._pipe: IO[bytes] | None = pipe
        self._flows = False
        self._failure: InputError | None = None
        _unread.append(self)

    def keep(self) -> None:
        """Copy the rest of the pipe to a temporary file; InputError if the model is not whole."""
        pipe = self._left()
        if self._flows:
            raise RuntimeError("weights were read after they had been handed on")
        if pipe is None:
            return
        self._file = self._kept(pipe, self._known[0])
        more = os.fstat(self._file.fileno()).st_size - self._size - len(self._closing)
        if more:
            raise self._failed("goes on behind the model" if more > 0 else "ended before the model did")
        ends = ((self._size, self._closing),) if self._closing else ()
        for start, content in (*zip(self._starts, self._known, strict=True), *ends):
            if super()._read(start, len(content)) != content:
                raise self._failed("is not the model that was announced")
        self._done()

    def write_last(self, file: IO[bytes], parts: Sequence[wire.Part]) -> None:
        """Write a model, in parts, after which nothing needs these bytes; InputError if they are not a whole model.

        The weights flow from the pipe, if they are needed in the order in which they come.
        """
        if not self._is_in_order(parts):
            self.keep()
        if self._left() is None:
            for part in parts:
                wire.write(part, file)
            return
        self._flows = True
        target, held = target_of(file, self._soak), io.BytesIO()
        before, last, after = _divided(parts)
        for part in before:
            self._put(part, target)
        self._put(last, Target(held))
        self._finish()
        for content in (held.getvalue(), *after):
            target.write(content)

    def write_to(self, file: IO[bytes], start: int, length: int) -> None:
        """Write a number of bytes, from a place on, to a file."""
        self.keep()
        super().write_to(file, start, length)

    def fileno(self) -> int:
        """Return the descriptor of a file with all bytes."""
        self.keep()
        return super().fileno()

    def _left(self) -> IO[bytes] | None:
        """Return the pipe, if anything is left in it; InputError if the model was not whole."""
        if self._failure:
            raise self._failure
        return self._pipe

    def _kept(self, pipe: IO[bytes], begun: bytes) -> IO[bytes]:
        try:
            return _copied(pipe, begun)
        except OSError as error:
            self._failure = InputError(
                f"{self._name} cannot be kept in a temporary file ({error.strerror or error})",
                "make room there, or set TMPDIR to another folder",
            )
            raise self._failure from None

    def _failed(self, what: str) -> InputError:
        self._failure = InputError(f"{self._name} {what}", "check the command that writes it")
        return self._failure

    def _done(self) -> None:
        self._pipe = None
        if self in _unread:
            _unread.remove(self)

    def _is_in_order(self, parts: Sequence[wire.Part]) -> bool:
        at = self._at
        for part in parts:
            if isinstance(part, wire.Stretch):
                unknown, end = self._unknown(part.start), part.start + part.length
                if unknown < end and (unknown < at or end > self._size):
                    return False
                at = max(at, end) if unknown < end else at
        return True

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

    def _put(self, part: wire.Part, target: Target) -> None:
        """Write a part: what is known of it, and what flows from the pipe."""
        if not isinstance(part, wire.Stretch):
            target.write(part)
            return
        end = part.start + part.length
        unknown = min(self._unknown(part.start), end)
        if part.start < unknown:
            target.write(self._read(part.start, unknown - part.start))
        if unknown < end:
            self._advance(unknown, None)
            self._advance(end, target)

    def _finish(self) -> None:
        """Read to the end of the pipe; InputError if it has something else behind the model."""
        self._advance(self._size, None)
        pipe = self._left()
        if pipe and (found := taken(pipe, len(self._closing) + 1)) != self._closing:
            is_short = self._closing.startswith(found)
            raise self._failed("ended before the model did" if is_short else "goes on behind the model")
        self._done()

    def _advance(self, end: int, target: Target | None) -> None:
        """Take bytes up to a place out of the pipe, for a target or to drop them; known ones must be as announced."""
        if self._at >= end:
            return
        with Path(os.devnull).open("wb") as nothing:
            into = target or Target(nothing)
            while self._at < end and (pipe := self._left()):
                index = bisect_right(self._starts, self._at) - 1
                first = self._at - self._starts[index]
                if expected := self._known[index][first : first + end - self._at]:
                    found = taken(pipe, len(expected))
                    if found != expected:
                        short = len(found) < len(expected)
                        raise self._failed("ended before the model did" if short else "is not what was announced")
                    into.write(expected)
                    self._at += len(expected)
                else:
                    count = into.move(pipe, min(end, self._starts[index + 1]) - self._at)
                    self._at += count
                    if not count and self._left() is pipe:
                        raise self._failed("ended before the model did")

    def _soak(self) -> None:
        """Keep the rest of the pipe in a temporary file, and go on with that, so that what writes into it can end."""
        if self._pipe is not None:
            self._pipe = self._kept(self._pipe, b"")
            self._pipe.seek(0)


def _divided(parts: Sequence[wire.Part]) -> tuple[list[wire.Part], wire.Part, list[bytes | memoryview]]:
    """Return the parts before the last byte of the last weight, that byte, and the parts behind it.

    Without weights, the last part is in the place of that byte.
    """
    last = max((n for n, part in enumerate(parts) if isinstance(part, wire.Stretch)), default=len(parts) - 1)
    before, part = list(parts[:last]), parts[last]
    after = [other for other in parts[last + 1 :] if not isinstance(other, wire.Stretch)]
    if isinstance(part, wire.Stretch):
        before.append(wire.Stretch(part.source, part.start, part.length - 1))
        part = wire.Stretch(part.source, part.start + part.length - 1, 1)
    return before, part, after


def _read_announced(pipe: IO[bytes], name: str) -> tuple[PipeBytes | None, bytes]:
    """Return the model that is announced, and nothing; or None, and what was taken out of the pipe."""
    begun = bytearray()

    def take(length: int) -> bytes:
        if length > LONGEST:
            raise wire.WireError("an announcement that is too long")
        found = taken(pipe, length)
        begun.extend(found)
        if len(found) < length:
            raise wire.WireError("the pipe has ended")
        return found

    def require(found: bytes, wanted: bytes) -> None:
        if found != wanted:
            raise wire.WireError("not announced")

    with suppress(ValueError):  # also those of `wire` and `binascii`
        require(take(1), wire.PRODUCER)
        while take(1)[0] >= 0x80 and len(begun) < _LENGTH:
            pass
        length, _ = wire.read_varint(memoryview(bytes(begun)), 1, len(begun))
        require(take(min(length, len(wire.ANNOUNCED))), wire.ANNOUNCED)
        value = binascii.a2b_base64(take(length - len(wire.ANNOUNCED)), strict_mode=True)
        content = memoryview(value)[_DIGEST:]
        size, at = wire.read_varint(content, 0, len(content))
        head = take(size)
        require(_digest(content, head), value[:_DIGEST])
        return PipeBytes(pipe, name, *_described(content, at, head)), b""
    return None, bytes(begun)


def _described(content: memoryview, at: int, head: bytes) -> tuple[list[tuple[int, bytes]], int, bytes]:
    """Return the known stretches of a model, its size, and what comes behind it; WireError if they are odd."""

    def number() -> int:
        nonlocal at
        found, at = wire.read_varint(content, at, len(content))
        return found

    end, closing, count = number(), number(), number()
    if not 0 < count <= wire.LIMIT // MOVED or end > wire.LIMIT or closing > 1:
        raise wire.WireError("a model of no size")
    holes = [(number(), number()) for _ in range(count)]
    known, upto = [(0, head)], len(head)
    ends = [*(start for start, _ in holes[1:]), end]
    for (start, size), after in zip(holes, ends, strict=True):
        gap = after - start - size
        if start < upto or not size or gap < 0 or at + gap > len(content):
            raise wire.WireError("holes that overlap")
        known.append((start + size, bytes(content[at : at + gap])))
        at, upto = at + gap, start + size
    if at != len(content) or holes[0][0] != len(head):
        raise wire.WireError("an announcement of another model")
    return known, end, wire.NO_PRODUCER if closing else b""


def _copied(pipe: IO[bytes], begun: bytes) -> IO[bytes]:
    """Return an unnamed temporary file with what was read of a pipe already, and all that is still in it."""
    file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - it is closed with the model
    file.write(begun)
    receive(pipe, file)
    return file


def _digest(*contents: bytes | memoryview) -> bytes:
    state = blake2b(digest_size=_DIGEST)
    for content in contents:
        state.update(content)
    return state.digest()


@atexit.register
def _drain() -> None:
    """Read what nobody needed, so that what writes into the pipe, such as `tee`, can end its work."""
    with suppress(OSError, ValueError, KeyboardInterrupt):
        for model in _unread:
            while model._pipe and os.read(model._pipe.fileno(), PIECE):
                pass
