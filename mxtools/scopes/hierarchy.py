"""The call tree onto which nodes are projected: scopes by number, with their tags and common ancestors.

Code that handles many nodes works with the numbers of calls; it looks scopes and tags up only to write or show them.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Protocol

from mxtools.scopes.scope import ROOT, join, local_name, split_call
from mxtools.scopes.tags import align, class_of, tags_of

ROOT_CALL = 0


class CallRecord(Protocol):
    """What the tree needs to know of a traced call."""

    @property
    def scope(self) -> str:
        """The scope of the call, `encoder.layer.0`."""

    @property
    def tag(self) -> str:
        """Its tag, the same path written with class names."""

    @property
    def parent(self) -> int | None:
        """The position of the call that made it, None for the root."""


class Hierarchy:
    """A tree of calls, numbered, parents before children; 0 is the root.

    A tree that is made from a trace has exactly the traced calls (`is_traced`). Other trees grow with the scopes of a
    file: `add` enters one, with its class if the file tells it, else with its attribute name in the place of the class.

    Attributes, by call: `scopes`; `parent`, the number of the calling call, -1 for the root; `depth`, levels below the
    root; `tags`.
    """

    def __init__(self, calls: Sequence[CallRecord] = (), root_class: str = "Model") -> None:
        """Build the tree of traced calls; without any, a tree that has only a root and grows."""
        self.is_traced = bool(calls)
        self.scopes: list[str] = [call.scope for call in calls] or [ROOT]
        self.parent: list[int] = [-1 if call.parent is None else call.parent for call in calls] or [-1]
        self.depth: list[int] = [0]
        for parent in self.parent[1:]:
            self.depth.append(self.depth[parent] + 1)
        self._classes: list[str] = [root_class]
        self._known_tags: dict[int, str] = {i: call.tag for i, call in enumerate(calls)}
        self._number = {scope: i for i, scope in enumerate(self.scopes)}
        self.expect({})

    def copy(self) -> Hierarchy:
        """Return a tree with the same calls and numbers, which grows on its own."""
        duplicate = copy.copy(self)
        for name in ("scopes", "parent", "depth", "_classes", "_known_tags", "_number", "_expected"):
            setattr(duplicate, name, copy.copy(getattr(self, name)))
        duplicate._forget_tags()
        return duplicate

    def __len__(self) -> int:
        """Return the number of calls."""
        return len(self.scopes)

    def find(self, scope: str) -> int | None:
        """Return the number of a scope, None if it is not in this tree."""
        return self._number.get(scope)

    def local(self, call: int) -> str:
        """Return the attribute name of a call below its parent: `layer.0` of `encoder.layer.0` below `encoder`."""
        return local_name(self.scopes[call], self.scopes[self.parent[call]])

    def add(self, steps: Iterable[tuple[str, str]]) -> int:
        """Enter a path below the root, as (attribute name in a scope, class name or ''); return the number of its end.

        A step that exists already is only given its class.
        """
        call = ROOT_CALL
        for local, class_name in steps:
            scope = join(self.scopes[call], local)
            number = self._number.get(scope)
            if number is None:
                number = self._enter(scope, call, class_name)
            elif class_name and not self._classes[number]:
                self._classes[number] = class_name
                self._forget_tags()
            call = number
        return call

    def _enter(self, scope: str, parent: int, class_name: str) -> int:
        """Add a call as the last one; return its number."""
        self.scopes.append(scope)
        self.parent.append(parent)
        self.depth.append(self.depth[parent] + 1)
        self._classes.append(class_name)
        self._forget_tags()
        self._number[scope] = len(self.scopes) - 1
        return self._number[scope]

    def _forget_tags(self) -> None:
        """Let `tags` be computed again: a new call or class can change the tags of its siblings too."""
        self.__dict__.pop("tags", None)

    def around(self, scope: str) -> int:
        """Return the innermost known call that a scope lies below."""
        while "." in scope:
            scope = scope.rpartition(".")[0]
            if scope in self._number:
                return self._number[scope]
        return ROOT_CALL

    def adopt(self, scope: str, tag: str) -> int:
        """Enter a scope and its tag, read from a tagged file, with all calls around it; return its number.

        A tagged file does not list its call tree: a call without nodes appears in it only as a part of others' scopes.
        The tag says what the scope alone does not, namely where one level ends and the next begins:

            scope  encoder.layer.0.attention  with tag  /BertModel/BertEncoder/BertLayer.0/BertAttention
            enters encoder (BertEncoder), encoder.layer.0 (BertLayer), encoder.layer.0.attention (BertAttention)

        If the tag does not fit the scope (a user changed one of them), the scope is entered in one step below the
        nearest known one. The tags of a file are kept literally. If they were computed anew, they could differ: a tag
        contains an attribute name if a sibling has the same class, and the tree may lack this sibling.
        """
        known = self._number.get(scope)
        levels = tag.split("/")[1:]
        root = class_of(levels[0]) if levels else ""
        if known is not None and root == self._classes[ROOT_CALL] and self._known_tags.get(known) == tag:
            return known
        if known is None:
            steps = self._steps(scope, tag)
            if steps or scope == ROOT:
                known = self.add((local, class_of(level)) for local, level in steps)
            else:
                known = self._enter(scope, self.around(scope), levels[-1] if levels else "")
        if levels:
            self.name_root(root)
            for call in self.lineage(known):
                self._known_tags.setdefault(call, "/" + "/".join(levels[: self.depth[call] + 1]))
        return known

    def expect(self, scopes: Mapping[str, str]) -> None:
        """Take the scopes of a file, with their tags, before they are entered: they show where levels end.

        If a model calls `model.decoder` and never `model`, only the decoder's own nodes show that this is one level.
        """
        self._expected = scopes
        self._known_steps: dict[tuple[str, str], list[tuple[str, str]]] = {}

    def _steps(self, scope: str, tag: str) -> list[tuple[str, str]]:
        """Return the levels of a tag below the root, each with its part of the scope, by the expected tags."""
        if (scope, tag) not in self._known_steps:
            self._known_steps[scope, tag] = self._found_steps(scope, tag)
        return self._known_steps[scope, tag]

    def _found_steps(self, scope: str, tag: str) -> list[tuple[str, str]]:
        end = tag.rfind("/")
        while end > tag.find("/", 1) > 0:
            around = self._expected.get(tag[:end], ROOT)
            if around != ROOT and scope.startswith(f"{around}."):
                outer, inner = self._steps(around, tag[:end]), align(scope[len(around) + 1 :], f"/{tag[end:]}")
                if outer and inner:
                    return outer + inner
            end = tag.rfind("/", 0, end)
        return align(scope, tag)

    def hidden_around(self, calls: Collection[int]) -> dict[str, str]:
        """Return the scopes, with their tags, around some calls that a tree of only these calls' scopes would lack.

        For example, a wrapper calls `base.model`, never `base`, and `base.model` only calls others. Then `base.model.x`
        with the tag `/Wrapper/Model/X` looks as if `base` had called `model.x`.
        """
        scopes, tags, around = self.scopes, self.tags, self.with_callers(calls) - {ROOT_CALL}
        depth = {call: scopes[call].count(".") + 1 for call in around} | {ROOT_CALL: 0}
        if all(depth[call] == depth[self.parent[call] or ROOT_CALL] + 1 for call in around.difference(calls)):
            return {}
        tree = Hierarchy()
        tree.expect({tags[call]: scopes[call] for call in calls})
        for call in calls:
            tree.adopt(scopes[call], tags[call])
        callers = {scope: tree.scopes[parent] for scope, parent in zip(tree.scopes[1:], tree.parent[1:], strict=True)}
        hidden = {at for call in around if (at := self.parent[call]) and callers.get(scopes[call]) != scopes[at]}
        return {scopes[call]: tags[call] for call in sorted(hidden.difference(calls))}

    def enter_equal(self, scope: str, equal: int, caller: str | None = None) -> int:
        """Enter a scope without a tag; its call has the same class as another call. Return its number.

        `caller` is the scope of the call that made it, if that is not the one around it.
        """
        known = self._number.get(scope)
        if known is not None:
            return known
        parent = self.find(caller) if caller is not None else None
        parent = self.around(scope) if parent is None else parent
        return self._enter(scope, parent, class_of(self.tags[equal].rpartition("/")[2]))

    def name_root(self, class_name: str) -> None:
        """Set the class of the root, in a tree that is not traced."""
        self._classes[ROOT_CALL] = class_name
        self._forget_tags()

    @cached_property
    def tags(self) -> list[str]:
        """The tag of each call."""
        if self.is_traced:
            return list(self._known_tags.values())
        calls = []
        for scope, parent, class_name in zip(self.scopes, self.parent, self._classes, strict=True):
            name = next((part for part in reversed(scope.split(".")) if not part.isdecimal()), "")
            calls.append((scope, None if parent < 0 else parent, class_name or split_call(name)[0] or "Module"))
        return [self._known_tags.get(number, tag) for number, tag in enumerate(tags_of(calls))]

    def common(self, calls: Iterable[int]) -> int:
        """Return the lowest common ancestor of at least one call."""
        found = -1
        for call in calls:
            found = call if found < 0 else self.meet(found, call)
            if found == ROOT_CALL:
                break
        return found

    def meet(self, a: int, b: int) -> int:
        """Return the lowest common ancestor of two calls."""
        depth, parent = self.depth, self.parent
        while a != b:
            if depth[a] >= depth[b]:
                a = parent[a]
            else:
                b = parent[b]
        return a

    def within(self, call: int, ancestor: int) -> bool:
        """Return whether `call` is `ancestor` or lies below it."""
        while self.depth[call] > self.depth[ancestor]:
            call = self.parent[call]
        return call == ancestor

    def outermost(self, calls: Collection[int]) -> list[int]:
        """Return those of some calls that have no caller among them."""
        return [call for call in calls if self.parent[call] not in calls]

    def lineage(self, call: int) -> Iterator[int]:
        """Yield a call, the one that called it, and so on to the root."""
        while call >= 0:
            yield call
            call = self.parent[call]

    def with_callers(self, calls: Iterable[int]) -> set[int]:
        """Return some calls and all calls around them."""
        found: set[int] = set()
        for call in calls:
            for around in self.lineage(call):
                if around in found:
                    break
                found.add(around)
        return found

    def path_below(self, ancestor: int, call: int) -> list[int]:
        """Return the calls from a call up to an ancestor, without the ancestor, the innermost call first."""
        path = []
        while call != ancestor:
            path.append(call)
            call = self.parent[call]
        return path
