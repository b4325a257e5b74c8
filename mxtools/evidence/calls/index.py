"""Which calls of a trace an exporter means by what it writes on a node.

Exporters name modules, not calls. What they write on a node leads to *candidates*: the calls of the named module that
lie below the other modules on the path. `placement` says which candidate a node belongs to.

The graph can be an export of a part (`mxtools.traces.part`); then its names are relative to the module of that part.
Modules that hold the very same weights are one object in one version of a library, and several in the next: `shared`,
which the decoder used too, is `decoder.embed_tokens` now. If a name leads to no call, it stands for such a twin.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from functools import cache, cached_property
from operator import itemgetter
from typing import TYPE_CHECKING, TypeVar

from mxtools.errors import InputError
from mxtools.evidence.calls.equal_work import EqualWork
from mxtools.graph.walk import NOWHERE
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes.hierarchy import ROOT_CALL, Hierarchy
from mxtools.scopes.labels import name_component, name_components
from mxtools.scopes.scope import ROOT, contains, enclosing_scopes, join, local_name
from mxtools.traces.traced_calls import (
    calls_making,
    calls_returning,
    does_nothing,
    first_equals,
    full_name,
    unused_calls,
)

if TYPE_CHECKING:
    from mxtools.traces.sidecar import Sidecar, TracedModule, Weight

Candidates = tuple[int, ...]
"""The calls that a node can belong to."""
Found = TypeVar("Found")
Label = TypeVar("Label")
"""What an exporter writes on a node to name its module: the path in a node's name, or a list of paths."""

OTHER_MODEL_SHARE = 0.5
"""The share of unknown modules, or scopes, above which a trace counts as that of another model.

If the model is the right one, or a part or another version of it, the trace knows most; of another model it knows
nearly nothing. Half lies far from both.
"""

FOREIGN_SHARE = 0.1
"""The share of nodes with modules that the trace lacks, above which the names come from other code than was traced.

Names from the traced code contain such a module only now and then. Another code base, which calls its attention `attn`
and not `self_attn`, gives other names to a third of a decoder's nodes.
"""

_COUNT = re.compile(r"_\d+$")
"""What TorchScript appends to a module's name in its second, third … call: `_1`, `_2` …"""


class CallIndex:
    """Finds the calls of a trace by what exporters write; names begin at `start`, the call of the exported part.

    `unused` has the calls from whose results nothing is computed that is returned, see `unused_calls`.
    """

    def __init__(self, hierarchy: Hierarchy, sidecar: Sidecar) -> None:
        """Index a trace's calls by module, and by the names that TorchScript gives to their nodes.

        The names form a tree: for each place, `_next` has the places below it by name, and `_calls_at` the calls at it.
        """
        self.hierarchy = hierarchy
        self.sidecar = sidecar
        self.part = sidecar.model.part or ROOT
        self.module = [call.module for call in sidecar.calls]
        self.start = self.module.index(self.part)
        self.canonical = {name: m.path for m in sidecar.modules for name in (*m.aliases, m.path)}
        self._calls_of: dict[str, list[int]] = defaultdict(list)
        self._next: list[dict[str, int]] = [{}]
        self._calls_at: list[list[int]] = [[]]
        self._places = list[int]()
        for number, call in enumerate(sidecar.calls):
            self._calls_of[call.module].append(number)
            place = 0 if call.parent is None else self._places[call.parent]
            for name in name_component(call.module).split("/") if call.parent is not None else ():
                place = self._step(place, name)  # a module's own name can hold a slash
            self._places.append(place)
            self._calls_at[place].append(number)
        self._enter_twins()
        self.unused = unused_calls(sidecar)
        self._idle = self.unused.union(number for number, call in enumerate(sidecar.calls) if does_nothing(call))
        self._unique: dict[Candidates, Candidates] = {}
        self.by_paths = cache(lambda paths: self._interned(self._called(self._in_whole(paths))))
        self.by_module = cache(self._by_module)
        self.by_name = cache(self._by_name)
        self._two_below = cache(self._all_two_below)

    def _enter_twins(self) -> None:
        """Give calls further names that lead to no call yet: the other names of the called module, and its twins'."""
        found: dict[tuple[str, tuple[str, ...]], list[TracedModule]] = defaultdict(list)
        for module in self.sidecar.modules:
            if module.weights:
                weights = tuple(weight.tied or full_name(module, weight) for weight in module.weights)
                found[module.class_name, weights].append(module)
        groups = (group for group in found.values() if len(group) > 1 or group[0].aliases)
        twins = {module.path: group for group in groups for module in group}
        for number, call in enumerate(self.sidecar.calls):
            names = [
                name for m in twins.get(call.module, ()) for name in (m.path, *m.aliases) if call.parent is not None
            ]
            for name in names:
                self._next[self._places[call.parent or 0]].setdefault(name_component(name), self._places[number])
        for path, group in twins.items():
            if path not in self._calls_of and len(group) > 1:
                self._calls_of[path] = sorted(call for twin in group for call in self._calls_of.get(twin.path, ()))

    def _interned(self, calls: Candidates) -> Candidates:
        """Return the one tuple of these calls, so that candidates can be compared by identity.

        Calls that did nothing, or whose results nothing uses, have no nodes; they are left out if there are others.
        """
        working = tuple(call for call in calls if call not in self._idle) or calls
        return self._unique.setdefault(working, working)

    @cached_property
    def origins(self) -> dict[int, set[int]]:
        """The calls that made each call's inputs: the innermost one that returned a tensor, or ran its operation.

        If an equal tensor was made before, its maker counts too, because an exporter computes only the first one.
        NOWHERE stands for the inputs of the graph.
        """
        maker = {tensor: calls[-1] for tensor, calls in calls_returning(self.sidecar).items()}
        maker.update(calls_making(self.sidecar))
        maker.update({tensor.id: NOWHERE for tensor in self.sidecar.calls[ROOT_CALL].inputs})
        first = first_equals(self.sidecar)
        same = {tensor: (tensor, first.get(tensor, tensor)) for tensor in maker}
        return {
            number: {maker[t] for tensor in call.inputs for t in same.get(tensor.id, ()) if t in maker}
            for number, call in enumerate(self.sidecar.calls)
        }

    @cached_property
    def repeated(self) -> set[int]:
        """The calls that only did again what an earlier call had done, see `EqualWork`."""
        return EqualWork(self.sidecar).repeated

    def _step(self, place: int, name: str) -> int:
        """Return the place of a name below another place in the tree of names; enter it if it is new."""
        if name not in self._next[place]:
            self._next[place][name] = len(self._next)
            self._next.append({})
            self._calls_at.append([])
        return self._next[place][name]

    def _in_whole(self, paths: Sequence[str]) -> tuple[str, ...]:
        """Return the paths of modules in the traced model, given those in the graph, outermost first.

        Where a model reaches modules through lists of Python and one is registered twice, dynamo's paths can begin anew
        below a module: `blocks.0`, `fc`, `fc.0`, where the last is `blocks.0.fc.0`.
        """
        found = list[str]()
        for path in paths:
            whole = self.part if path == ROOT else join(self.part, path)
            inner = (join(around, path) for around in reversed(found) if whole not in self.canonical)
            found.append(next((each for each in inner if each in self.canonical), whole))
        return tuple(found)

    def _called(self, paths: tuple[str, ...]) -> Candidates:
        """Return the calls of the last module path that lie below the others; nothing if the path is not a module.

        A module that was not called in the trace is skipped: its work counts as its caller's. One that calls itself
        stands on the path several times.
        """
        if any(path not in self.canonical for path in paths[-1:]):
            return ()
        chain = [self.canonical[path] for path in paths if path in self.canonical]
        while chain and not self._calls_of.get(chain[-1]):
            chain.pop()
        if not chain:
            return (self.start,)
        calls = self._calls_of[chain[-1]]
        if len(calls) == 1:
            return tuple(calls)
        modules = Counter(module for module in chain if self._calls_of.get(module))
        fitting = [c for c in calls if modules <= Counter(self.module[a] for a in self.hierarchy.lineage(c))]
        nearest = min((self.hierarchy.depth[c] for c in fitting), default=None)
        return tuple(c for c in fitting if self.hierarchy.depth[c] == nearest) or tuple(calls)

    def _by_module(self, path: str) -> Candidates:
        """Return the calls of a module; if it was not called, of the innermost module around it that was.

        That module uses the weights itself, as an encoder with `conv1d(x, self.bank.filters())`.
        """
        called = (at for at in (path, *reversed([*enclosing_scopes(path)])) if self._calls_of.get(at))
        return self._interned(self._called((next(called, path),)))

    def _by_name(self, text: str) -> tuple[Candidates, str]:
        """Return the calls that a TorchScript node name leads to, and the part of the name that leads there.

        The name comes without its last component. The part ends before the first component that is not a module. If
        that is the very first one, there are no calls.
        """
        names = name_components(text)
        calls, count = self._called_by_steps(names)
        if count < len(names):
            calls, count = max((calls, count), self._called_by_hook(names), key=itemgetter(1))
        return self._interned(tuple(calls)), "/".join(names[:count])

    def names_module(self, text: str) -> bool:
        """Return whether a node name, without its last component, begins with a module that is called where it says."""
        names = name_components(text)
        return not names or self._called_by_steps(names)[1] > 0

    def _called_by_steps(self, names: Sequence[str]) -> tuple[list[int], int]:
        """Return the calls that names lead to, each the next one's caller, and how many of the names do."""
        place = self._places[self.start]
        for count, name in enumerate(names):
            following = _named(self._next[place], name)
            if following is None:
                return (self._calls_at[place] if count else []), count
            place = following
        return self._calls_at[place], len(names)

    def _called_by_hook(self, names: Sequence[str]) -> tuple[list[int], int]:
        """Return the calls in a hook that names lead to, and how many of the names do.

        A hook runs in the caller of the module that has it. So the names do not show this module, whose calls the
        hook's are: `/adapter/down/MatMul`, where `down` ran in `layer.adapter`.
        """
        outside: int | None = self._places[self.start]
        inside, found = list[int](), (list[int](), 0)
        for count, name in enumerate(names, 1):
            inside = [at for place in inside if (at := _named(self._next[place], name)) is not None]
            if outside is not None:
                inside += _named(self._two_below(outside), name) or ()
                outside = _named(self._next[outside], name)
            if inside:
                found = sorted({call for place in inside for call in self._calls_at[place]}), count
            elif outside is None:
                break
        return found

    def _all_two_below(self, place: int) -> dict[str, list[int]]:
        """Return the places two levels below a place, by their names."""
        found: dict[str, list[int]] = defaultdict(list)
        for below in self._next[place].values():
            for name, at in self._next[below].items():
                found[name].append(at)
        return dict(found)

    def foreign_module(self, text: str) -> str:
        """Return the module that a node name, without its last component, has and the trace lacks; '' for none.

        A module that was not called, or a ScriptModule, has no calls here, but the trace does not lack it.
        """
        names, (_, known) = name_components(text), self.by_name(text)
        count = len(name_components(known))
        if count == len(names) or not {names[count], _COUNT.sub("", names[count])}.isdisjoint(self._components):
            return ""
        return "/".join(names[: count + 1])

    @cached_property
    def weights(self) -> dict[str, tuple[TracedModule, Weight]]:
        """The traced weights by their names in the graph, each with its module."""
        named = ((name, m) for m in self.sidecar.modules for name in (*m.aliases, m.path) if contains(self.part, name))
        return {
            local_name(join(name, w.name), self.part): (module, w) for name, module in named for w in module.weights
        }

    @cached_property
    def owners(self) -> dict[str, set[str]]:
        """The paths of the modules that have the weight of each name in `weights`; several can have the same one."""
        firsts = {name: weight.tied or full_name(module, weight) for name, (module, weight) in self.weights.items()}
        found: dict[str, set[str]] = defaultdict(set)
        for name, first in firsts.items():
            found[first].add(self.weights[name][0].path)
        return {name: found[first] for name, first in firsts.items()}

    @cached_property
    def _components(self) -> set[str]:
        """What stands for a module in node names: the component of each module."""
        return {name_component(path) for path in self.canonical}


def call_index(model: WorkingModel) -> CallIndex | None:
    """Return the index of a model's traced calls, None without a trace; for `WorkingModel.once`."""
    return CallIndex(model.annotations.hierarchy, model.traced) if model.traced else None


def require_same_model(
    name: str,
    sidecar: Sidecar,
    labelled: Mapping[Label, Sequence[int]],
    known: Container[Label],
    text: Callable[[Label], str],
) -> None:
    """Raise InputError if a trace belongs to another model: it lacks most of the modules that nodes name.

    `name` is the graph's; `labelled` has the nodes by what they name, `known` the names that the trace has; `text`
    writes a label for the message.
    """
    unknown = [label for label in labelled if label not in known]
    if sum(len(labelled[label]) for label in unknown) > OTHER_MODEL_SHARE * sum(map(len, labelled.values())):
        raise InputError(
            f"the sidecar belongs to another model than {name}: {sidecar.model.class_name} has no module "
            f"{text(unknown[0])!r}, which nodes of the graph name",
            "trace the model that was exported",
        )


def scope_steps(names: Iterable[str]) -> list[tuple[str, str]]:
    """Return the levels of a scope, from a node name's components, as (attribute name, ''); for models without a trace.

    In such names a module repeats its container's name: `layers/layers.0`. Its class is not known, hence ''.
    """
    steps: list[tuple[str, str]] = []
    before = ""
    for name in names:
        steps.append((name.removeprefix(before + ".") if before else name, ""))
        before = name
    return steps


def _named(below: Mapping[str, Found], name: str) -> Found | None:
    """Return what has a name, or has it without the number of a call; None if there is none."""
    return below[name] if name in below else below.get(_COUNT.sub("", name))
