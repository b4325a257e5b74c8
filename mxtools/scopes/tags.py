"""Tags: scopes written with class names, for people: `/BertModel/BertEncoder/BertLayer.0/BertAttention`.

Each level is the class; the last part of the attribute name is added where it is an index or where a sibling of the
same class makes it needed (more parts where siblings would still look alike), and then the call suffix of the scope.
Scope and tag map to each other one to one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cache

from mxtools.scopes.scope import ROOT, escape


def tags_of(calls: Iterable[tuple[str, int | None, str]]) -> list[str]:
    """Give the tag of each call, given as (scope, position of its parent or None, class name), parents first."""
    calls = list(calls)
    children: dict[int, list[int]] = defaultdict(list)
    for index, (_, parent, _) in enumerate(calls):
        if parent is not None:
            children[parent].append(index)
    tags = [f"/{_class(calls[0][2])}"] if calls else []
    tags += [""] * (len(calls) - 1)
    for parent, below in sorted(children.items()):
        locals_ = [_local(calls[i][0], calls[parent][0]) for i in below]
        for i, level in zip(below, _levels(locals_, [calls[i][2] for i in below]), strict=True):
            tags[i] = f"{tags[parent]}/{level}"
    return tags


def class_of(tag: str) -> str:
    """Give the class of a tag, or of a level of one."""
    return tag.rpartition("/")[2].partition("@")[0].partition(".")[0]


def align(scope: str, tag: str) -> list[tuple[str, str]]:
    """Divide a scope into the levels of its tag, below the root; give each level's part of the scope and of the tag.

    A level can be several attribute names (`layer.0`). What a tag's level says of its name decides; where that leaves a
    choice, numbers stay with the name before them. Empty where they do not fit together.
    """
    names, levels = ([] if scope == ROOT else scope.split(".")), tag.split("/")[2:]

    @cache
    def divide(at: int, level: int) -> tuple[int, ...] | None:
        """Give the ends of the levels from a name and a level on."""
        if level == len(levels):
            return () if at == len(names) else None
        ends = range(at + 1, len(names) - (len(levels) - level - 1) + 1)
        for end in sorted(ends, key=lambda e: e < len(names) and names[e].partition("@")[0].isdecimal()):
            rest = divide(end, level + 1) if _fits(names[at:end], levels[level]) else None
            if rest is not None:
                return (end, *rest)
        return None

    found = divide(0, 0) or ()
    return [(".".join(names[i:j]), level) for i, j, level in zip((0, *found), found, levels, strict=False)]


def _fits(names: list[str], level: str) -> bool:
    """Tell whether a tag's level can be that of a call with these attribute names."""
    base, _, count = level.partition("@")
    suffix = base.partition(".")[2]
    local, _, local_count = ".".join(names).partition("@")
    if suffix:
        return count == local_count and (local == suffix or local.endswith("." + suffix))
    return count == local_count and not local.rpartition(".")[2].isdecimal()


def _levels(locals_: Sequence[str], classes: Sequence[str]) -> list[str]:
    """Give the tag level of each of some siblings."""
    names: dict[str, set[str]] = defaultdict(set)
    for local, name in zip(locals_, classes, strict=True):
        names[name].add(local.partition("@")[0])
    tails = {name: Counter(tail for local in found for tail in _tails(local)) for name, found in names.items()}
    levels = []
    for local, name in zip(locals_, classes, strict=True):
        base, at, count = local.partition("@")
        level = _class(name)
        if len(names[name]) > 1 or base.rpartition(".")[2].isdecimal():
            level += "." + _shortest(base, tails[name])
        levels.append(level + at + count)
    return levels


def _shortest(local: str, siblings: Mapping[str, int]) -> str:
    """Give the last parts of a local name, as many as it takes to tell it apart from its siblings' last parts."""
    return next((tail for tail in _tails(local) if siblings[tail] == 1), local)


def _tails(local: str) -> list[str]:
    """Give the last part of a local name, the last two, and so on to all."""
    parts = local.split(".")
    return [".".join(parts[at:]) for at in range(len(parts) - 1, -1, -1)]


def _local(scope: str, parent: str) -> str:
    return scope if parent == ROOT else scope[len(parent) + 1 :]


def _class(name: str) -> str:
    return escape(name).replace(".", "%2E")
