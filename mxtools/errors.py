"""The one tree of exceptions; each class has the exit status with which a command ends.

An error says what is wrong (its problem) and what to do about it (its remedy). Python and the command line have
different names for some things: a sidecar is passed as `trace=` in Python and as `--trace` in a shell. Both texts are
therefore templates, in which a word in `⟨⟩` stands for such a name: `InputError("there is no trace", "give ⟨trace⟩")`.

Texts are in Python's words, unless a block says otherwise (`with speaking(WORDS)`, as `mx` does). So a message in a
report, such as the failure of one strategy among several, is in the words of whoever asked for the report.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ClassVar

PYTHON: dict[str, str] = {
    # parameters
    "alias": "`names=`",
    "any-inputs": "inputs=",
    "balance": "balance=",
    "budget": "budget=",
    "by-tag": "tag=",
    "cache": "cache=",
    "class": "class_name=",
    "data-dir": "data_dir=",
    "depth": "depth=",
    "dynamic": "dynamic=",
    "each": "scopes",
    "eval": "function=",
    "exclude-scope": "exclude",
    "explain": "`model.tag(explain=…)`",
    "exporter-dynamo": 'exporter="dynamo"',
    "exporter-torchscript": 'exporter="torchscript"',
    "from-tensor": "from_tensor=",
    "genai": "`genai`",
    "held-back": "held=",
    "input": "inputs=",
    "input-shape": "the shape",
    "inputs": "inputs=",
    "io-module": 'io="module"',
    "io-tensors": 'io="tensors"',
    "keep": "keep=True",
    "keep-modules": "keep_modules=True",
    "limits": "`mxtools.limits()` of",
    "log-file": "`attempts` of this error",
    "memory": "memory=",
    "op": "op=",
    "opset": "opset=",
    "output": "path=",
    "parts": "parts=",
    "profile": "profile=",
    "repair": "call `model.repair()`",
    "repeated": "repeated=True",
    "scope": "scopes",
    "strategy": "strategy=",
    "to-tensor": "to_tensor=",
    "tolerance": "tolerance=",
    "trace": "trace=",
    "type": "types=",
    "with-past": "`past`",
    # calls
    "filter": "`model.filter()`",
    "passes": "`mxtools.list_passes()`",
    "profiler": "`ProfileReport.model_dump_json()`",
    "record": "mxtools.trace(…, record=True)",
    "recording": "record=True",
    "splitter": "mxtools",
    "strategies": "`mxtools.list_strategies()`",
    "tag": "call `model.tag()`",
    "tag-from": "call `model.tag(earlier=…)` with",
    "tag-renaming": "`model.tag(rename=True)`",
    "tag-with-trace": "call `model.tag(trace)`",
    "tracer": "`mxtools.trace()`",
    "tree": "`model.modules()`",
    "view": "`model.view()`",
    # another tool's command: a list in Python; in a shell, words after two dashes
    "dashes": "",
    "wrap-command": '["COMMAND", "{in}", "{out}"]',
}
"""What the words stand for in Python; `cli/words.py` has the same words for the command line."""

MOST_SHOWN = 8
"""How many names a message lists."""
_WORD = re.compile("⟨([a-z-]+)⟩")
_words: ContextVar[Mapping[str, str]] = ContextVar("words", default=PYTHON)


def printable(text: str) -> str:
    r"""Return a text as one line; characters that are not printable are written out: `\x1b`, `\n`."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def listed(texts: Sequence[str], most: int) -> str:
    """Return texts in one line; if there are more than `most`, only so many and the number of the others.

    >>> listed(["a", "b", "c", "d"], 2)
    'a, b and 2 more'
    """
    return ", ".join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")


def suggestion(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Return the names that may have been meant; if no name is similar, return which names exist.

    >>> suggestion("encoder.layr.0", ["encoder.layer.0", "pooler"])
    'did you mean encoder.layer.0?'
    >>> suggestion("x", ["pooler", "encoder"])
    'there are pooler, encoder'
    """
    import difflib

    choices = list(dict.fromkeys(known))
    if near := difflib.get_close_matches(name, choices, 3, cutoff):
        return f"did you mean {' or '.join(near)}?"
    shown = ", ".join(choices[:MOST_SHOWN]) + (" …" if len(choices) > MOST_SHOWN else "")
    return f"there are {shown}" if choices else "there is none"


@contextmanager
def speaking(words: Mapping[str, str]) -> Iterator[None]:
    """Inside the block, let the words in errors stand for other names than Python's.

    >>> with speaking({"trace": "--trace"}):
    ...     in_words("give ⟨trace⟩")
    'give --trace'
    """
    token = _words.set(words)
    try:
        yield
    finally:
        _words.reset(token)


def in_words(template: str) -> str:
    """Return a template on one printable line, with each `⟨word⟩` replaced; a word in no table stays.

    >>> in_words("give ⟨trace⟩")
    'give trace='
    """
    table = _words.get()
    text = _WORD.sub(lambda found: table.get(found[1], found[0]), template)
    return printable(" ".join(text.split()))


class MxError(Exception):
    """An error that a user can act on.

    Attributes: `problem`, what is wrong and where; `remedy`, what to do, empty if there is no advice; `status`, the
    exit status of a command.

    >>> error = UsageError("no node has a scope", "⟨tag⟩ first")
    >>> str(error)
    'no node has a scope: call `model.tag()` first'
    >>> error.remedy
    'call `model.tag()` first'
    """

    status: ClassVar[int] = 3

    def __init__(self, problem: str, remedy: str = "") -> None:
        """Take two templates: what is wrong and where, and what to do."""
        super().__init__(problem, remedy)

    @property
    def problem(self) -> str:
        """What is wrong and where."""
        return in_words(str(self.args[0]))

    @property
    def remedy(self) -> str:
        """What to do; empty if there is no advice."""
        return in_words(str(self.args[1]))

    def __repr__(self) -> str:
        """Return the class and the message, without the words in `⟨⟩` that `args` has."""
        return f"{type(self).__name__}({str(self)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Let the error be pickled and copied, as process pools do, whatever its class is made from."""
        return _revived, (type(self), self.args), self.__dict__

    def __str__(self) -> str:
        """Return problem and remedy on one printable line, whatever an underlying library put into them."""
        return f"{self.problem}: {self.remedy}" if self.remedy else self.problem


def _revived(kind: type[MxError], args: tuple[Any, ...]) -> MxError:
    return kind.__new__(kind, *args)


class CheckError(MxError):
    """The answer is no: a check failed, or a difference was found."""

    status: ClassVar[int] = 1


class UsageError(MxError):
    """Options are wrong, or a selector matches nothing."""

    status: ClassVar[int] = 2


class InputError(MxError):
    """A file, a model or a sidecar is unreadable or invalid."""

    status: ClassVar[int] = 3


class OutputError(MxError):
    """An output cannot be written."""

    status: ClassVar[int] = 3


class AbsentError(MxError):
    """The module existed, but it can no longer be cut out of the graph."""

    status: ClassVar[int] = 4
