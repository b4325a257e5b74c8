"""Specs: passes with their options as text, `a{x=1},b`.

Grammar: `PIPELINE = PASS ("," PASS)*`, `PASS = name ["{" KEY "=" VALUE ("," KEY "=" VALUE)* "}"]`. A value is a bare
word or a JSON string in double quotes; a key given several times makes a list. `spec_of` is the exact inverse of
`parse`.
"""

from __future__ import annotations

import json
import re
import types
import typing
from collections.abc import Iterator
from dataclasses import MISSING, fields
from typing import Any

from mxtools.errors import UsageError
from mxtools.pipeline.base import Pass
from mxtools.pipeline.registry import key_of, load, types_of

_TOKEN = re.compile(r'\s*(?:(?P<word>[^\s{}=,"]+)|(?P<string>"(?:[^"\\]|\\.)*")|(?P<mark>[{}=,]))')
_BARE = re.compile(r'[^\s{}=,"]+')


def parse(text: str) -> tuple[Pass, ...]:
    """Return the passes of a spec; UsageError says where it is wrong."""
    return tuple(_build(name, options) for name, options in _Parser(text).pipeline())


def spec_of(step: Pass) -> str:
    """Return the spec of one pass: options that have their default value are left out."""
    parts = []
    for item in fields(step):
        value = getattr(step, item.name)
        if value != item.default:
            parts += [f"{key_of(item)}={_text(v)}" for v in (value if isinstance(value, tuple) else (value,))]
    return step.name + (f"{{{','.join(parts)}}}" if parts else "")


class _Parser:
    """A recursive descent over the tokens of a spec, one method for each rule of the grammar."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = list(self._tokens())
        self.position = 0

    def _tokens(self) -> Iterator[tuple[str, str, int]]:
        """Yield the tokens: kind (word, string or mark), text, and where it starts."""
        position, end = 0, len(self.text.rstrip())
        while position < end:
            found = _TOKEN.match(self.text, position)
            if not found:
                raise self._error(position)
            token_kind = found.lastgroup or ""
            yield token_kind, found[token_kind], found.start(token_kind)
            position = found.end()

    def _error(self, position: int) -> UsageError:
        found = self.text[position : position + 20]
        where = f"has an error at {found!r} (column {position + 1})" if found else "is not complete"
        return UsageError(f"pipeline {self.text!r} {where}", "write 'name{key=value},name2'")

    def take(self, *allowed: str) -> str:
        """Return the next token; `allowed` are its possible kinds (word or string), or the marks that it may be."""
        token_kind, value, position = (
            self.tokens[self.position] if self.position < len(self.tokens) else ("end", "", len(self.text))
        )
        if token_kind not in allowed and value not in allowed:
            raise self._error(position)
        self.position += 1
        if token_kind != "string":
            return value
        try:
            return str(json.loads(value))
        except ValueError:
            raise self._error(position) from None

    def peek(self, mark: str) -> bool:
        """Return whether the next token is a mark."""
        return self.position < len(self.tokens) and self.tokens[self.position][:2] == ("mark", mark)

    def pipeline(self) -> Iterator[tuple[str, list[tuple[str, str]]]]:
        """Yield the passes of a pipeline: name and options, as (key, value)."""
        yield self.pass_()
        while self.position < len(self.tokens):
            self.take(",")
            yield self.pass_()

    def pass_(self) -> tuple[str, list[tuple[str, str]]]:
        """Return name and options of one pass."""
        name = self.take("word")
        options: list[tuple[str, str]] = []
        if self.peek("{"):
            self.take("{")
            while not self.peek("}"):
                if options:
                    self.take(",")
                key = self.take("word")
                self.take("=")
                options.append((key, self.take("word", "string")))
            self.take("}")
        return name, options


def _build(name: str, options: list[tuple[str, str]]) -> Pass:
    """Return the pass of a name with its options; UsageError for unknown, repeated or missing options."""
    cls = load(name)
    known, hints = {key_of(item): item for item in fields(cls)}, types_of(cls)
    values: dict[str, Any] = {}
    for key, text in options:
        if key not in known:
            takes = ", ".join(known) or "no options"
            raise UsageError(f"pass {name!r} has no option {key!r}", f"it takes {takes}")
        item = known[key]
        if typing.get_origin(hints[item.name]) is tuple:
            values[item.name] = (*values.get(item.name, ()), text)
        elif item.name in values:
            raise UsageError(f"pass {name!r} is given {key!r} twice", "give it once")
        else:
            values[item.name] = _convert(hints[item.name], text, f"option {key!r} of pass {name!r}")
    required = [key for key, item in known.items() if item.default is MISSING and item.name not in values]
    if required:
        raise UsageError(f"pass {name!r} needs {required[0]!r}", f"write '{name}{{{required[0]}=…}}'")
    return cls(**values)


def _convert(hint: Any, text: str, what: str) -> Any:  # noqa: ANN401 - the type that `hint` says
    """Return the value of an option from its text; UsageError, which names the option as `what`, if it has none."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = next(t for t in typing.get_args(hint) if t is not type(None))
    if hint is bool:
        if text not in ("true", "false"):
            raise UsageError(f"{what} is {text!r}", "write true or false")
        return text == "true"
    try:
        return hint(text)
    except ValueError as error:
        raise UsageError(f"{what} is {text!r}", f"{error}") from None


def _text(value: object) -> str:
    """Return the text of an option's value, quoted if it is not a bare word; the inverse of `_convert`."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if _BARE.fullmatch(text) else json.dumps(text, ensure_ascii=False)
