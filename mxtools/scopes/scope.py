"""Scopes: the path of one module call along the call tree, as text, and what can be asked of that text.

A scope is written with attribute names joined by dots; the root is `.`. The second, third … call of a module inside
the same call of its parent gets `@1`, `@2` …: `encoder.groups.0@2.attention`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

ROOT = "."

DEEPEST = 200
"""Most names in a scope. No real model comes near it, but a file can hold any text, and work grows with depth."""

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
    """Yield the scopes that a scope lies in, without the root, the outermost first: of `a.b.c`, `a` and `a.b`."""
    dot = scope.find(".", 1)
    while dot > 0:
        yield scope[:dot]
        dot = scope.find(".", dot + 1)


def join(parent: str, local: str) -> str:
    """Return the scope of a call named `local` (already escaped) below `parent`."""
    return local if parent == ROOT else f"{parent}.{local}"


def contains(ancestor: str, scope: str) -> bool:
    """Return whether `scope` is `ancestor` or lies below it."""
    return ancestor in (ROOT, scope) or scope.startswith(ancestor + ".")
