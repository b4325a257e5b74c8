"""The call tree that nodes are projected onto: scopes by number, with their tags and common ancestors."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Protocol

from mxtools.scopes.scope import ROOT, join
from mxtools.scopes.tags import align, class_of, tags_of

ROOT_CALL = 0


class CallRecord(Protocol):
    """What the tree takes of a traced call: its scope, its tag, and the position of the call that made it."""

    @property
    def scope(self) -> str:
        """The scope of the call."""

    @property
    def tag(self) -> str:
        """The same place, written with class names."""

    @property
    def parent(self) -> int | None:
        """The position of the calling call, None for the root."""


class Hierarchy:
    """A tree of calls, numbered, parents first; 0 is the root.

    Made from a trace, it holds exactly the traced calls (`is_traced`). Otherwise it grows: `add` enters scopes as they
    are met in a file, each with its class where the file knows it, else with its attribute name in place of the class.
    """

    def __init__(self, calls: Sequence[CallRecord] = (), root_class: str = "Model") -> None:
        """Build the tree of some traced calls, or one with just a root."""
        self.is_traced = bool(calls)
        self.scopes: list[str] = [call.scope for call in calls] or [ROOT]
        self.parent: list[int] = [-1 if call.parent is None else call.parent for call in calls] or [-1]
        self.depth: list[int] = [0]
        for parent in self.parent[1:]:
            self.depth.append(self.depth[parent] + 1)
        self._classes: list[str] = [root_class]
        self._known_tags: dict[int, str] = {i: call.tag for i, call in enumerate(calls)}
        self._number = {scope: i for i, scope in enumerate(self.scopes)}

    def copy(self) -> Hierarchy:
        """Return a tree with the same calls and numbers, which grows on its own."""
        twin = copy.copy(self)
        for name in ("scopes", "parent", "depth", "_classes", "_known_tags", "_number"):
            setattr(twin, name, copy.copy(getattr(self, name)))
        twin.__dict__.pop("tags", None)
        return twin

    def __len__(self) -> int:
        """Give the number of calls."""
        return len(self.scopes)

    def find(self, scope: str) -> int | None:
        """Give the number of a scope, None when it is no scope of this tree."""
        return self._number.get(scope)

    def local(self, call: int) -> str:
        """Give what the scope of a call, other than the root, adds to its parent's."""
        above, scope = self.scopes[self.parent[call]], self.scopes[call]
        return scope if above == ROOT else scope.removeprefix(above + ".")

    def add(self, steps: Iterable[tuple[str, str]]) -> int:
        """Enter a path of (attribute name as in a scope, class name or '') below the root; give its number."""
        at = ROOT_CALL
        for local, class_name in steps:
            scope = join(self.scopes[at], local)
            number = self._number.get(scope)
            if number is None:
                number = self._enter(scope, at, class_name)
            elif class_name and not self._classes[number]:
                self._classes[number] = class_name
                self.__dict__.pop("tags", None)
            at = number
        return at

    def _enter(self, scope: str, parent: int, class_name: str) -> int:
        self.scopes.append(scope)
        self.parent.append(parent)
        self.depth.append(self.depth[parent] + 1)
        self._classes.append(class_name)
        self.__dict__.pop("tags", None)
        self._number[scope] = len(self.scopes) - 1
        return self._number[scope]

    def _nearest(self, scope: str) -> int:
        """Give the call with the longest known scope that a scope lies below."""
        while "." in scope:
            scope = scope.rpartition(".")[0]
            if scope in self._number:
                return self._number[scope]
        return ROOT_CALL

    def adopt(self, scope: str, tag: str) -> int:
        """Enter a scope and its tag as a tagged file bears them, with the levels above; give its number."""
        known = self._number.get(scope)
        levels = tag.split("/")[1:]
        if known is None:
            steps = align(scope, tag)
            known = (
                self.add((local, class_of(level)) for local, level in steps)
                if steps or scope == ROOT
                else self._enter(scope, self._nearest(scope), levels[-1] if levels else "")
            )
        if levels:
            self.name_root(class_of(levels[0]))
            for call in self.lineage(known):
                self._known_tags.setdefault(call, "/" + "/".join(levels[: self.depth[call] + 1]))
        return known

    def name_root(self, class_name: str) -> None:
        """Say the class of the root of an open tree."""
        self._classes[ROOT_CALL] = class_name
        self.__dict__.pop("tags", None)

    @cached_property
    def tags(self) -> list[str]:
        """The tag of each call."""
        if self.is_traced:
            return list(self._known_tags.values())
        calls = []
        for scope, parent, class_name in zip(self.scopes, self.parent, self._classes, strict=True):
            stand_in = next((p for p in reversed(scope.split(".")) if not p.isdecimal()), "")
            calls.append((scope, None if parent < 0 else parent, class_name or stand_in.partition("@")[0] or "Module"))
        return [self._known_tags.get(number, tag) for number, tag in enumerate(tags_of(calls))]

    def common(self, calls: Iterable[int]) -> int:
        """Give the lowest common ancestor of some calls, at least one."""
        found = -1
        for call in calls:
            found = call if found < 0 else self.meet(found, call)
            if found == ROOT_CALL:
                break
        return found

    def meet(self, a: int, b: int) -> int:
        """Give the lowest common ancestor of two calls."""
        depth, parent = self.depth, self.parent
        while a != b:
            if depth[a] >= depth[b]:
                a = parent[a]
            else:
                b = parent[b]
        return a

    def within(self, call: int, ancestor: int) -> bool:
        """Tell whether `call` is `ancestor` or below it."""
        while self.depth[call] > self.depth[ancestor]:
            call = self.parent[call]
        return call == ancestor

    def lineage(self, call: int) -> Iterator[int]:
        """Give a call, the one that called it, and so on to the root."""
        while call >= 0:
            yield call
            call = self.parent[call]

    def below(self, ancestor: int, call: int) -> list[int]:
        """Give a call and those around it that lie below an ancestor of it, innermost first."""
        found = []
        while call != ancestor:
            found.append(call)
            call = self.parent[call]
        return found
