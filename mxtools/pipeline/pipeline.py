"""Pipelines: the registry of passes, the spec text `a{x=1},b`, and running.

Grammar: `PIPELINE = PASS ("," PASS)*`, `PASS = name ["{" KEY "=" VALUE ("," KEY "=" VALUE)* "}"]`. A value is a bare
word or a JSON string in double quotes; a key given several times makes a list. `str(Pipeline.parse(text))` parses to
the same.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import json
import pkgutil
import re
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import MISSING, Field, dataclass, fields
from functools import cache
from time import perf_counter
from typing import Any

from onnx import ModelProto

import mxtools.passes
from mxtools.errors import UsageError
from mxtools.pipeline.context import Context, Pass

ENTRY_POINTS = "mxtools.passes"

_TOKEN = re.compile(r'\s*(?:(?P<word>[^\s{}=,"]+)|(?P<string>"(?:[^"\\]|\\.)*")|(?P<mark>[{}=,]))')
_BARE = re.compile(r'[^\s{}=,"]+')


def names() -> list[str]:
    """Give the names of all passes: the files of `mxtools/passes/` and the entry points of others."""
    own = [module.name.replace("_", "-") for module in pkgutil.iter_modules(mxtools.passes.__path__)]
    return sorted({*own, *(entry.name for entry in importlib.metadata.entry_points(group=ENTRY_POINTS))})


@cache
def load(name: str) -> type[Pass]:
    """Give the class of a pass.

    Raises UsageError, with the nearest names, when there is none, or when another package's pass cannot be imported.
    """
    if any(module.name == name.replace("-", "_") for module in pkgutil.iter_modules(mxtools.passes.__path__)):
        module = importlib.import_module(f"mxtools.passes.{name.replace('-', '_')}")
        return next(
            v
            for v in vars(module).values()
            if isinstance(v, type) and issubclass(v, Pass) and v.__module__ == module.__name__
        )
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS, name=name):
        try:
            found = entry.load()
        except Exception as error:
            raise UsageError(
                f"pass {name!r} of {entry.value} cannot be imported ({error}): repair or remove that package"
            ) from error
        if not (isinstance(found, type) and issubclass(found, Pass)):
            raise UsageError(
                f"pass {name!r} of {entry.value} is no subclass of mxtools.context.Pass: repair or remove that package"
            )
        return found
    near = difflib.get_close_matches(name, names(), n=3) or names()
    raise UsageError(f"no pass is called {name!r}: there are {', '.join(near)} (see `mx passes`)")


def key_of(item: Field[Any]) -> str:
    """Give an option's name in a spec or on a command line: of `class_` `class`, of `from_tensor` `from-tensor`."""
    return item.name.rstrip("_").replace("_", "-")


def types_of(cls: type[Pass]) -> dict[str, Any]:
    """Give the types of a pass's fields, as objects."""
    return typing.get_type_hints(cls)


@dataclass(frozen=True)
class Pipeline:
    """A sequence of passes."""

    passes: tuple[Pass, ...]

    @classmethod
    def parse(cls, text: str) -> Pipeline:
        """Read a pipeline from its spec; UsageError says where it is wrong."""
        return cls(tuple(_build(name, options) for name, options in _Parser(text).pipeline()))

    def __str__(self) -> str:
        """Give the spec: options that have their default value are left out."""
        return ",".join(map(_spec, self.passes))

    def _all(self) -> Iterator[Pass]:
        """Give the passes, each with those that have to follow it."""
        for step in self.passes:
            yield step
            if step.then:
                yield from Pipeline.parse(step.then).passes

    def run(self, model: ModelProto, context: Context, observe: Callable[[Pass, float], None] | None = None) -> None:
        """Run the passes in order on `model`, in place; `observe` is told each pass's seconds."""
        for step in self._all():
            start = perf_counter()
            if not step.annotates:
                context.save()
            step.apply(model, context)
            if not step.annotates:
                context.forget()
            if observe:
                observe(step, perf_counter() - start)
        context.save()


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = list(self._tokens())
        self.at = 0

    def _tokens(self) -> Iterator[tuple[str, str, int]]:
        position, end = 0, len(self.text.rstrip())
        while position < end:
            found = _TOKEN.match(self.text, position)
            if not found:
                raise self._error(position)
            kind = found.lastgroup or ""
            yield kind, found[kind], found.start(kind)
            position = found.end()

    def _error(self, position: int) -> UsageError:
        found = self.text[position : position + 20]
        return UsageError(
            f"pipeline {self.text!r} is wrong at {found!r} (column {position + 1}): write 'name{{key=value}},name2'"
        )

    def take(self, *kinds: str) -> str:
        """Give the next token, which must be of one of the kinds: word, string, or the mark itself."""
        kind, value, position = self.tokens[self.at] if self.at < len(self.tokens) else ("end", "", len(self.text))
        if kind not in kinds and value not in kinds:
            raise self._error(position)
        self.at += 1
        if kind != "string":
            return value
        try:
            return str(json.loads(value))
        except ValueError:
            raise self._error(position) from None

    def peek(self, mark: str) -> bool:
        return self.at < len(self.tokens) and self.tokens[self.at][:2] == ("mark", mark)

    def pipeline(self) -> Iterator[tuple[str, list[tuple[str, str]]]]:
        yield self.pass_()
        while self.at < len(self.tokens):
            self.take(",")
            yield self.pass_()

    def pass_(self) -> tuple[str, list[tuple[str, str]]]:
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
    cls = load(name)
    known, hints = {key_of(item): item for item in fields(cls)}, types_of(cls)
    values: dict[str, Any] = {}
    for key, text in options:
        if key not in known:
            takes = ", ".join(known) or "no options"
            raise UsageError(f"pass {name!r} has no option {key!r}: it takes {takes}")
        item = known[key]
        if typing.get_origin(hints[item.name]) is tuple:
            values[item.name] = (*values.get(item.name, ()), text)
        elif item.name in values:
            raise UsageError(f"pass {name!r} is given {key!r} twice: give it once")
        else:
            values[item.name] = _convert(hints[item.name], text, f"option {key!r} of pass {name!r}")
    required = [key for key, item in known.items() if item.default is MISSING and item.name not in values]
    if required:
        raise UsageError(f"pass {name!r} needs {required[0]!r}: write '{name}{{{required[0]}=…}}'")
    return cls(**values)


def _convert(hint: Any, text: str, what: str) -> Any:  # noqa: ANN401
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = next(t for t in typing.get_args(hint) if t is not type(None))
    if hint is bool:
        if text not in ("true", "false"):
            raise UsageError(f"{what} is {text!r}: write true or false")
        return text == "true"
    try:
        return hint(text)
    except ValueError as error:
        raise UsageError(f"{what} is {text!r}: {error}") from None


def _spec(step: Pass) -> str:
    parts = []
    for item in fields(step):
        value = getattr(step, item.name)
        if value != item.default:
            parts += [f"{key_of(item)}={_text(v)}" for v in (value if isinstance(value, tuple) else (value,))]
    return step.name + (f"{{{','.join(parts)}}}" if parts else "")


def _text(value: object) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if _BARE.fullmatch(text) else json.dumps(text, ensure_ascii=False)
