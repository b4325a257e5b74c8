"""What a shell may complete: scopes, tags, classes, operators of files on the command line, passes, strategies.

Functions here are called while somebody types. They never raise and print nothing: if something is broken, there is
nothing to complete.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mxtools.scopes.names_in_file import NamesInFile

Completer = Callable[[str], list[str]]

_LINES = ("COMP_WORDS", "_TYPER_COMPLETE_ARGS")
"""The variables in which shells pass the command line on."""
_GLOB = str.maketrans({"*": "[*]", "?": "[?]", "[": "[[]"})
_ROOT = "."


def _quietly(complete: Callable[[str], Iterable[str]]) -> Completer:
    """Return a completer that finds nothing if it would raise."""

    @functools.wraps(complete)
    def quiet(incomplete: str) -> list[str]:
        try:
            return list(complete(incomplete))
        except Exception:
            return []

    quiet.__annotations__ = {"incomplete": str, "return": list[str]}  # from these, typer learns what to pass
    del quiet.__wrapped__
    return quiet


@_quietly
def scopes(incomplete: str) -> Iterable[str]:
    """Return the scopes that begin with a text, but only of the next level, because a model has thousands."""
    found = [scope.translate(_GLOB) for scope in _named().tags]
    return _next_level([scope for scope in found if scope != _ROOT], incomplete, ".")


@_quietly
def tags(incomplete: str) -> Iterable[str]:
    """Return the tags that begin with a text, of the next level only."""
    return _next_level([tag.translate(_GLOB) for tag in _named().tags.values()], incomplete, "/")


@_quietly
def classes(incomplete: str) -> Iterable[str]:  # noqa: ARG001 - typer leaves out what does not fit
    """Return the classes of the modules."""
    return _named().classes


@_quietly
def operators(incomplete: str) -> Iterable[str]:  # noqa: ARG001
    """Return the operators of the graph."""
    return _named().operators


@_quietly
def strategies(incomplete: str) -> Iterable[str]:
    """Return the strategies, after those that are already there: `htp,f`."""
    from mxtools.strategies import table

    before, comma, _ = incomplete.rpartition(",")
    return (f"{before}{comma}{name}" for name in table.known())


@_quietly
def pipeline(incomplete: str) -> Iterable[str]:
    """Return what can follow in a pipeline: a pass or, inside braces, an option of one."""
    from dataclasses import fields

    from mxtools.pipeline.registry import key_of, load, names

    opened = re.fullmatch(r"((?:.*,)?([\w-]+)\{(?:[^{}]*,)?)[^{},=]*", incomplete)
    if opened:
        return (f"{opened[1]}{key_of(item)}=" for item in fields(load(opened[2])))
    before = re.fullmatch(r"(.*[,}])?[^,{}]*", incomplete)
    return (f"{before[1] or ''}{name}" for name in names()) if before else ()


def one_of(words: Collection[str]) -> Completer:
    """Return a completer of some words."""
    return _quietly(lambda incomplete: words)  # noqa: ARG005


SELECTORS: dict[str, Completer] = {
    "scope": scopes,
    "exclude": scopes,
    "tag": tags,
    "class_": classes,
    "op": operators,
}
"""Completers, by the fields of the pass `filter` that select something."""


def _named() -> NamesInFile:
    """Return the names in the first file on the command line that has any, models before sidecars."""
    from mxtools.scopes.names_in_file import NamesInFile, names_in_file

    found = map(names_in_file, sorted(_files(), key=lambda file: file.suffix == ".json"))
    return next((names for names in found if names.tags or names.operators), NamesInFile())


def _files() -> Iterator[Path]:
    """Yield the files on the command line; if the shell passes them on, also those after the word being completed."""
    line = next((os.environ[name] for name in _LINES if os.environ.get(name)), "")
    for word in re.findall(r"'[^']*'|\"[^\"]*\"|(?:\\.|\S)+", line):
        name = word[1:-1] if word[0] in "'\"" else re.sub(r"\\(.)", r"\1", word)
        file = Path(name).expanduser()
        if file.is_file():
            yield file


def _next_level(names: Collection[str], incomplete: str, separator: str) -> list[str]:
    """Return the outermost names that begin with a text; if it is only one, also the names directly in it.

    Of `encoder`, `encoder.layer.0`, `encoder.layer.0.mlp` and `pooler`, an empty text gives `encoder` and `pooler`, and
    `enc` gives `encoder` and `encoder.layer.0`. With `encoder` alone, a shell would consider it complete.
    """
    found = _outermost([name for name in names if name.startswith(incomplete)], separator)
    if len(found) == 1:
        below = [name for name in names if name.startswith(found[0] + separator)]
        found += _outermost(below, separator)
    return found


def _outermost(names: Collection[str], separator: str) -> list[str]:
    """Return the names that are not below another one, each once."""
    known = dict.fromkeys(names)
    return [
        name
        for name in known
        if not any(name[: found.start()] in known for found in re.finditer(re.escape(separator), name))
    ]
