"""The one tree of exceptions; each class carries the exit status that a command ends with.

An error says what is wrong, and what to do about it. What to do is said in the words of whoever asks: a remedy is a
template in which `⟨word⟩` stands for something that Python and the command line call by different names, as
`⟨trace⟩` for `trace=` here and `--trace` there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar

PYTHON: dict[str, str] = {
    "tag": "call `model.tag()`",
    "trace": "trace=",
    "record": "mxtools.trace(…, record=True)",
}
"""What the words of remedies are in Python; the command line has a table of the same words."""

_WORD = re.compile("⟨([a-z-]+)⟩")


def printable(text: str) -> str:
    r"""Return a text with what is not printable written out, as `\x1b`; line ends and tabs stay."""
    if text.isprintable():
        return text
    return "".join(c if c in "\t\n" or c.isprintable() else repr(c)[1:-1] for c in text)


class MxError(Exception):
    """An error that a user can act on: `problem`, what is wrong and where, and `remedy`, what to do.

    >>> error = UsageError("no node has a scope", "⟨tag⟩ first")
    >>> str(error)
    'no node has a scope: call `model.tag()` first'
    >>> error.remedy
    'call `model.tag()` first'
    """

    status: ClassVar[int] = 3

    def __init__(self, problem: str, remedy: str = "") -> None:
        """Take what is wrong, and a template of what to do; both may hold `⟨word⟩`."""
        super().__init__(problem, remedy)

    @property
    def problem(self) -> str:
        """What is wrong, in Python's words."""
        return self.line(PYTHON, remedied=False)

    @property
    def remedy(self) -> str:
        """What to do, in Python's words; empty where there is no advice."""
        return _said(str(self.args[1]), PYTHON)

    def __str__(self) -> str:
        """Return problem and remedy in Python's words."""
        return self.line(PYTHON)

    def line(self, words: Mapping[str, str], remedied: bool = True) -> str:
        """Return the message on one printable line, whatever an underlying library put into it.

        `words` is what `⟨word⟩` stands for; without `remedied` the line only says what is wrong.
        """
        problem, remedy = (_said(str(part), words) for part in self.args)
        return f"{problem}: {remedy}" if remedy and remedied else problem


def _said(template: str, words: Mapping[str, str]) -> str:
    text = _WORD.sub(lambda found: words.get(found[1], found[1]), template)
    return printable(" ".join(text.split()))


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
