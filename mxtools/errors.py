"""The one tree of exceptions; each class carries the exit status that a command ends with."""

from __future__ import annotations

from typing import ClassVar


def printable(text: str) -> str:
    r"""Return a text with what is not printable written out, as `\x1b`; line ends and tabs stay."""
    if text.isprintable():
        return text
    return "".join(c if c in "\t\n" or c.isprintable() else repr(c)[1:-1] for c in text)


class MxError(Exception):
    """An error that a user can act on, as one line: what is wrong, where: what to do."""

    status: ClassVar[int] = 3

    def __str__(self) -> str:
        """Give the message on one printable line, whatever an underlying library put into it."""
        return printable(" ".join(super().__str__().split()))


class CheckError(MxError):
    """The question was understood and the answer is no: a check failed, a difference was found."""

    status: ClassVar[int] = 1


class UsageError(MxError):
    """Wrong options, or a selector that matches nothing."""

    status: ClassVar[int] = 2


class InputError(MxError):
    """A file, a model or a sidecar that cannot be read or is invalid."""

    status: ClassVar[int] = 3


class OutputError(MxError):
    """A place that cannot be written to."""

    status: ClassVar[int] = 3


class AbsentError(MxError):
    """The module existed, but the graph no longer holds it as something that can be cut out."""

    status: ClassVar[int] = 4
