"""Scopes: the path of one module call along the call tree, and arithmetic on it.

A scope is written with attribute names joined by dots; the root is `.`. The second, third … call of a module inside
the same call of its parent gets `@1`, `@2` …: `encoder.groups.0@2.attention`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

ROOT = "."

DEEPEST = 200
"""Names that a scope can have. No model comes near it; files from anywhere do, and work grows with it."""

_CONTROLS = (*range(0x20), *range(0x7F, 0xA0))
_ESCAPES = {character: f"%{ord(character):02X}" for character in ("%", "@", "/", *map(chr, _CONTROLS))}
_LEVEL = re.compile(rf"(?:[^.{re.escape(''.join(_ESCAPES))}]|{'|'.join(_ESCAPES.values())})+(?:@[1-9]\d*)?")


def escape(attribute: str) -> str:
    """Give an attribute name as it stands in a scope: `%`, `@`, `/` and control characters are percent-encoded."""
    return "".join(_ESCAPES.get(character, character) for character in attribute)


def is_scope(text: str) -> bool:
    """Tell whether a text can be a scope."""
    levels = text.split(".")
    return text == ROOT or (len(levels) <= DEEPEST and all(map(_LEVEL.fullmatch, levels)))


def above(scope: str) -> Iterator[str]:
    """Give the scopes that a scope lies in, but for the root, the outermost first."""
    at = scope.find(".", 1)
    while at > 0:
        yield scope[:at]
        at = scope.find(".", at + 1)


def join(parent: str, local: str) -> str:
    """Give the scope of a call named `local` (already escaped) below `parent`."""
    return local if parent == ROOT else f"{parent}.{local}"


def module_path(scope: str) -> str:
    """Give the scope without its call suffixes; for a module called by its owners this is its path, escaped."""
    return ".".join(part.partition("@")[0] for part in scope.split(".")) if scope != ROOT else ROOT


def contains(ancestor: str, scope: str) -> bool:
    """Tell whether `scope` is `ancestor` or lies below it."""
    return ancestor in (ROOT, scope) or scope.startswith(ancestor + ".")


def common_ancestor(a: str, b: str) -> str:
    """Give the longest dotted path that is a prefix of both scopes."""
    shared = []
    for x, y in zip(a.split("."), b.split("."), strict=False):
        if x != y:
            break
        shared.append(x)
    return ".".join(shared) if shared and a != ROOT and b != ROOT else ROOT
