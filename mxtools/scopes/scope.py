"""Scopes: the path of one module call along the call tree, as text, and what this text tells.

A scope is written with attribute names joined by dots; the root is `.`. The second, third … call of a module inside
the same call of its parent gets `@1`, `@2` …: `encoder.groups.0@2.attention`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

ROOT = "."

DEEPEST = 200
"""Most names in a scope. No real model comes near it, but a file can have any text, and work grows with depth."""

MOST_DIGITS = 19
"""A number with so many digits is no list index. A file can have any text, and Python refuses endless numbers."""

_CONTROLS = (*range(0x20), *range(0x7F, 0xA0))
_ESCAPES = {character: f"%{ord(character):02X}" for character in ("%", "@", "/", *map(chr, _CONTROLS))}
_LEVEL = re.compile(rf"(?:[^.{re.escape(''.join(_ESCAPES))}]|{'|'.join(_ESCAPES.values())})+(?:@[1-9]\d*)?")


def escape(attribute: str) -> str:
    """Return an attribute name as a scope writes it: `%`, `@`, `/` and control characters are percent-encoded."""
    return "".join(_ESCAPES.get(character, character) for character in attribute)


def is_scope(text: str) -> bool:
    """Return whether a text can be a scope."""
    levels = text.split(".")
    return text == ROOT or (len(levels) <= DEEPEST and all(map(_LEVEL.fullmatch, levels)))


def enclosing_scopes(scope: str) -> Iterator[str]:
    """Yield the scopes that a scope lies in, without the root, the outermost first: `a` and `a.b` for `a.b.c`."""
    dot = scope.find(".", 1)
    while dot > 0:
        yield scope[:dot]
        dot = scope.find(".", dot + 1)


def join(parent: str, local: str) -> str:
    """Return the scope of a call named `local` (already escaped) below `parent`."""
    return local if parent == ROOT else f"{parent}.{local}"


def local_name(scope: str, parent: str) -> str:
    """Return the name of a scope below its parent: `layer.0` for `encoder.layer.0` below `encoder`."""
    return scope if parent == ROOT else scope.removeprefix(parent + ".")


def numbered_call(scope: str, number: int) -> str:
    """Return the scope of a further call of a module, from that of its first: `layer@2` for number 2 of `layer`."""
    return f"{scope}@{number}" if number else scope


def split_call(level: str) -> tuple[str, str]:
    """Divide a level of a scope or tag into its name and the suffix of a further call: `layer@2` is `layer`, `@2`."""
    name, at_sign, number = level.partition("@")
    return name, at_sign + number


def call_number(scope: str) -> tuple[str, int]:
    """Return the scope of the first call of a module, and the number of this one: `a.layer@2` is `a.layer`, 2."""
    around, dot, last = scope.rpartition(".")
    name, suffix = split_call(last)
    number = list_index(suffix.removeprefix("@"))
    return (scope, 0) if number is None else (around + dot + name, number)


def list_index(name: str) -> int | None:
    """Return a name as the number of a module in a list; None if it is not a number, or an endless one."""
    return int(name) if name.isdecimal() and len(name) < MOST_DIGITS else None


def contains(ancestor: str, scope: str) -> bool:
    """Return whether `scope` is `ancestor` or lies below it."""
    return ancestor in (ROOT, scope) or scope.startswith(ancestor + ".")
