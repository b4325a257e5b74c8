"""Selectors: globs over scopes and tags, class names and operators, the same in every command.

A scope selects itself and all below it. `*`, `?` and `[…]` match within one level, `**` across levels.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache

from mxtools.errors import AbsentError, UsageError
from mxtools.scopes.scope import ROOT
from mxtools.scopes.tags import class_of


@dataclass(frozen=True)
class Selection:
    """What to select: by any of the scopes, tags and classes, without the excluded scopes."""

    scopes: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def places(self, known: dict[str, str], absent: dict[str, str]) -> set[str]:
        """Give the selected ones of the scopes of a model, given with their tags.

        A selector that matches nothing is refused: AbsentError where it names a module that the exporter removed,
        UsageError with the nearest scopes otherwise.
        """
        if not (self.scopes or self.tags or self.classes):
            chosen = set(known)
        else:
            chosen = {s for pattern in self.scopes for s in _by_scope(pattern, known, absent)}
            chosen |= {s for pattern in self.tags for s in _by_tag(pattern, known)}
            chosen |= {s for name in self.classes for s in _by_class(name, known)}
        for pattern in self.exclude:
            chosen -= _by_scope(pattern, known, absent)
        return chosen


def _by_scope(pattern: str, known: dict[str, str], absent: dict[str, str]) -> set[str]:
    if pattern == ROOT:
        return set(known)
    matches = _matcher(pattern, ".")
    found = {scope for scope in known if matches(scope) and (scope != ROOT or "**" in pattern)}
    if not found:
        removed = [scope for scope in absent if matches(scope)]
        if removed:
            raise AbsentError(_removed(removed[0], absent[removed[0]]))
        raise UsageError(_nothing("scope", pattern, _with_ancestors(known)))
    return found


def _by_tag(pattern: str, known: dict[str, str]) -> set[str]:
    matches = _matcher(pattern, "/")
    found = {scope for scope, tag in known.items() if matches(tag)}
    if not found:
        raise UsageError(_nothing("tag", pattern, known.values()))
    return found


def _by_class(name: str, known: dict[str, str]) -> set[str]:
    levels = {scope: [class_of(level) for level in tag.split("/")[1:]] for scope, tag in known.items()}
    found = {scope for scope in known if name in levels[scope]}
    if not found:
        raise UsageError(_nothing("class", name, {c for classes in levels.values() for c in classes}))
    return found


def _removed(scope: str, reason: str) -> str:
    kind, _, into = reason.partition(": ")
    why = {
        "merged": f"the exporter merged it into {into}: select that, or export with --keep-modules",
        "folded": "the exporter folded it away: export with --keep-modules",
        "unused": "nothing uses what it computes, and the exporter removed it: select the module that calls it",
        "vacuous": "it returns just what it is given: select the module that calls it",
    }
    return f"{scope} has no node in this graph, {why.get(kind, f'{reason}: select the module that calls it')}"


def _nothing(what: str, wanted: str, known: Iterable[str]) -> str:
    choices = sorted(set(known))
    near = difflib.get_close_matches(wanted.replace("*", ""), choices, n=3, cutoff=0.5) or choices[:3]
    return f"no node has a {what} that matches {wanted!r}: the nearest are {', '.join(near)} (see `mx tree`)"


def _with_ancestors(scopes: Iterable[str]) -> set[str]:
    """Give scopes with all that they lie below."""
    return {".".join(parts[: n + 1]) for scope in scopes for parts in [scope.split(".")] for n in range(len(parts))} - {
        ""
    }


def _matcher(pattern: str, separator: str) -> Callable[[str], object]:
    """Give a test whether a path, or one that it lies below, matches a glob."""
    return _expression(pattern, separator).match


@cache
def _expression(pattern: str, separator: str) -> re.Pattern[str]:
    within = f"[^{re.escape(separator)}]"
    text, at = "", 0
    while at < len(pattern):
        literal = re.compile(r"\[(!?)(\]?[^\]]*)\]").match(pattern, at)
        if pattern.startswith("**", at):
            text, at = text + ".*", at + 2
        elif literal:
            text += f"[{'^' if literal[1] else ''}{_class(literal[2])}]"
            at = literal.end()
        else:
            text += {"*": within + "*", "?": within}.get(pattern[at], re.escape(pattern[at]))
            at += 1
    return re.compile(f"(?:{text})(?:{re.escape(separator)}.*)?\\Z", re.DOTALL)


def _class(text: str) -> str:
    return re.sub(r"([\\\[\]^&~|])", r"\\\1", text)
