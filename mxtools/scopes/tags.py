"""Tags: scopes written with class names, for people: `/BertModel/BertEncoder/BertLayer.0/BertAttention`.

Each level is the class of the module. The last part of the attribute name follows if it is an index, or if a sibling
has the same class; more parts follow if siblings would still look alike. Then comes the call suffix of the scope. So
scope and tag map to each other one to one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cache

from mxtools.scopes.scope import ROOT, escape, local_name, split_call


def tags_of(calls: Iterable[tuple[str, int | None, str]]) -> list[str]:
    """Return the tag of each call, given as (scope, position of its parent or None, class name), parents first."""
    calls = list(calls)
    children: dict[int, list[int]] = defaultdict(list)
    for index, (_, parent, _) in enumerate(calls):
        if parent is not None:
            children[parent].append(index)
    tags = [f"/{_escaped_class(calls[0][2])}"] if calls else []
    tags += [""] * (len(calls) - 1)
    for parent, siblings in sorted(children.items()):
        locals_ = [local_name(calls[i][0], calls[parent][0]) for i in siblings]
        for i, level in zip(siblings, _levels(locals_, [calls[i][2] for i in siblings]), strict=True):
            tags[i] = f"{tags[parent]}/{level}"
    return tags


def class_of(tag: str) -> str:
    """Return the class of a tag, or of one level of a tag."""
    return split_call(tag.rpartition("/")[2])[0].partition(".")[0]


def align(scope: str, tag: str) -> list[tuple[str, str]]:
    """Return the levels of a tag below the root, each with its part of the scope; empty if they do not fit together.

    A level of a tag can stand for several attribute names, because a ModuleList or a Sequential that is only indexed is
    never called and so has no level. So dots alone do not say where a level ends:

        encoder.layer.0.attention  and  /BertModel/BertEncoder/BertLayer.0/BertAttention
        give  encoder: BertEncoder,  layer.0: BertLayer.0,  attention: BertAttention

    Every way to divide the names among the levels is tried, and a level's suffix decides: `BertLayer.0` can be
    `layer.0` but not `layer`. If several ways fit, an index stays with the name before it. `divide` is cached by
    position and level, so the work is at most names x levels x names.
    """
    names, levels = ([] if scope == ROOT else scope.split(".")), tag.split("/")[2:]
    if len(levels) == 1:
        return [(scope, levels[0])] if names and _fits(names, levels[0]) else []

    @cache
    def divide(start: int, level: int) -> tuple[int, ...] | None:
        """Return where the levels from `level` on end, if the first of them begins at the name `start`."""
        if level == len(levels):
            return () if start == len(names) else None
        ends = range(start + 1, len(names) - (len(levels) - level - 1) + 1)
        for end in sorted(ends, key=lambda e: e < len(names) and split_call(names[e])[0].isdecimal()):
            rest = divide(end, level + 1) if _fits(names[start:end], levels[level]) else None
            if rest is not None:
                return (end, *rest)
        return None

    ends = divide(0, 0) or ()
    return [(".".join(names[i:j]), level) for i, j, level in zip((0, *ends), ends, levels, strict=False)]


def _fits(names: list[str], level: str) -> bool:
    """Return whether a call with these attribute names can have this level of a tag."""
    base, call = split_call(level)
    suffix = base.partition(".")[2]
    local, local_call = split_call(".".join(names))
    if suffix:
        return call == local_call and (local == suffix or local.endswith("." + suffix))
    return call == local_call and not local.rpartition(".")[2].isdecimal()


def _levels(locals_: Sequence[str], classes: Sequence[str]) -> list[str]:
    """Return the tag levels of some siblings, given their attribute names and their classes."""
    names: dict[str, set[str]] = defaultdict(set)
    for local, class_name in zip(locals_, classes, strict=True):
        names[class_name].add(split_call(local)[0])
    tails = {name: Counter(tail for local in found for tail in _tails(local)) for name, found in names.items()}
    levels = []
    for local, class_name in zip(locals_, classes, strict=True):
        base, call = split_call(local)
        level = _escaped_class(class_name)
        if len(names[class_name]) > 1 or base.rpartition(".")[2].isdecimal():
            level += "." + _shortest(base, tails[class_name])
        levels.append(level + call)
    return levels


def _shortest(local: str, siblings: Mapping[str, int]) -> str:
    """Return as many last parts of a local name as it takes to differ from its siblings."""
    return next((tail for tail in _tails(local) if siblings[tail] == 1), local)


def _tails(local: str) -> list[str]:
    """Return the last part of a local name, the last two, and so on: `b` and `a.b` for `a.b`."""
    parts = local.split(".")
    return [".".join(parts[first:]) for first in range(len(parts) - 1, -1, -1)]


def _escaped_class(name: str) -> str:
    return escape(name).replace(".", "%2E")
