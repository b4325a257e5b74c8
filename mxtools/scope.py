"""Scopes: the path of one module call along the call tree, and arithmetic on it.

A scope is written with attribute names joined by dots; the root is `.`. The second, third … call of a module inside
the same call of its parent gets `@1`, `@2` …: `encoder.groups.0@2.attention`.
"""

from __future__ import annotations

ROOT = "."

_ESCAPES = {"%": "%25", "@": "%40", "/": "%2F"}


def escape(attribute: str) -> str:
    """Give an attribute name as it stands in a scope: `%`, `@` and `/` are percent-encoded."""
    return "".join(_ESCAPES.get(character, character) for character in attribute)


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
