"""Which calls of a trace an exporter means by what it writes on a node.

Exporters name modules, not calls: what they write leads to *candidates*, the calls of that module, as far as they lie
under the modules that are named above it. `placement` tells which of them a node belongs to.

The graph can be an export of a part (`mxtools.traces.part`): then what it names lies in that module. Of modules that
hold the very same weights a library makes one object in one version, and several in the next: what was `shared`, in
the decoder too, is `decoder.embed_tokens` now. Where a name leads to no call, it stands for such a twin.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from functools import cache, cached_property
from typing import TYPE_CHECKING, TypeVar

from mxtools.errors import InputError
from mxtools.graph.walk import NOWHERE
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes.hierarchy import ROOT_CALL, Hierarchy
from mxtools.scopes.labels import name_component, name_components
from mxtools.scopes.scope import ROOT, contains, join, local_name
from mxtools.traces.traced_calls import calls_making, calls_returning, does_nothing, full_name

if TYPE_CHECKING:
    from mxtools.traces.sidecar import Sidecar, TracedModule, Weight

Candidates = tuple[int, ...]
"""The calls that a node can belong to."""
Label = TypeVar("Label")
"""What an exporter writes on a node to say its module, as it writes it: a node name's path, or a list of paths."""

OTHER_MODEL_SHARE = 0.5
"""The share of unknown modules, or scopes, above which a trace counts as that of another model.

Of the right model, also of a part of it or of another version, a trace knows most; of another model nearly nothing.
Half lies far from both.
"""

FOREIGN_SHARE = 0.1
"""The share of nodes that name modules which the trace lacks, above which the names are those of other code.

Of the code that was traced only a stray node does so; another code base, which calls its attention `attn` and not
`self_attn`, names a third of a decoder's nodes otherwise.
"""

_COUNT = re.compile(r"_\d+$")
"""What TorchScript puts behind a module's name at its second, third … call: `_1`, `_2` …"""


class CallIndex:
    """Finds the calls of a trace by what exporters write; the first names stand at `start`, the call of the part."""

    def __init__(self, hierarchy: Hierarchy, sidecar: Sidecar) -> None:
        """Index a trace's calls by module, and by the names that TorchScript gives to their nodes.

        The names are a tree: `_next` has for each of its places the places below by name, `_calls_at` the calls there.
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
        self._idle = {number for number, call in enumerate(sidecar.calls) if does_nothing(call)}
        self._unique: dict[Candidates, Candidates] = {}
        self.by_paths = cache(lambda paths: self._interned(self._called(tuple(map(self._in_whole, paths)))))
        self.by_module = cache(lambda path: self._interned(self._called((path,))))
        self.by_name = cache(self._by_name)

    def _enter_twins(self) -> None:
        """Let further names lead to calls, where they lead to none: of the called module, and of its twins."""
        found: dict[tuple[str, tuple[str, ...]], list[TracedModule]] = defaultdict(list)
        for module in self.sidecar.modules:
            if module.weights:
                weights = tuple(weight.tied or full_name(module, weight) for weight in module.weights)
                found[module.class_name, weights].append(module)
        twins = {module.path: group for group in found.values() for module in group}
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

        Calls that did nothing have no nodes; they are left out where there are others.
        """
        working = tuple(call for call in calls if call not in self._idle) or calls
        return self._unique.setdefault(working, working)

    @cached_property
    def origins(self) -> dict[int, set[int]]:
        """The calls that made what each call was given: the innermost that returned it, or that ran its operation.

        NOWHERE stands for the inputs of the graph.
        """
        maker = {tensor: calls[-1] for tensor, calls in calls_returning(self.sidecar).items()}
        maker.update(calls_making(self.sidecar))
        maker.update({tensor.id: NOWHERE for tensor in self.sidecar.calls[ROOT_CALL].inputs})
        return {
            number: {maker[tensor.id] for tensor in call.inputs if tensor.id in maker}
            for number, call in enumerate(self.sidecar.calls)
        }

    def _step(self, place: int, name: str) -> int:
        """Return the place of a name below a place in the tree of names, which is entered if it is new."""
        if name not in self._next[place]:
            self._next[place][name] = len(self._next)
            self._next.append({})
            self._calls_at.append([])
        return self._next[place][name]

    def _in_whole(self, path: str) -> str:
        """Return the path in the traced model of a module of the graph, of which the path there is given."""
        return self.part if path == ROOT else join(self.part, path)

    def _called(self, paths: tuple[str, ...]) -> Candidates:
        """Return the calls of the last of some module paths that lie under the others; none where it is no module.

        A module that was not called in the trace is left out: its work counts as its caller's.
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
        modules = set(chain[:-1])
        fitting = [c for c in calls if modules <= {self.module[a] for a in self.hierarchy.lineage(c)}]
        nearest = min((self.hierarchy.depth[c] for c in fitting), default=None)
        return tuple(c for c in fitting if self.hierarchy.depth[c] == nearest) or tuple(calls)

    def _by_name(self, text: str) -> tuple[Candidates, str]:
        """Return the calls that a TorchScript node name, given without its last part, leads to, and the part that does.

        The part ends before the first component that is no module. There are no calls if that is the first one.
        """
        names, known, place = name_components(text), list[str](), self._places[self.start]
        for name in names:
            following = next((n for n in (name, _COUNT.sub("", name)) if n in self._next[place]), None)
            if following is None:
                break
            place = self._next[place][following]
            known.append(name)
        calls = self._calls_at[place] if known or not names else ()
        return self._interned(tuple(calls)), "/".join(known)

    def foreign_module(self, text: str) -> str:
        """Return the module that a node name, given without its last part, names and the trace lacks; '' without one.

        A module that was not called, or is a ScriptModule, has no calls here, and is none that the trace lacks.
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
    def _components(self) -> set[str]:
        """What stands for a module in node names, of all modules."""
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
    """Raise InputError where a trace is of another model: it does not have most of the modules that nodes name.

    `name` is the graph's; `labelled` are the nodes by what they name, `known` the names that the trace has; `text`
    writes one for the message.
    """
    unknown = [label for label in labelled if label not in known]
    if sum(len(labelled[label]) for label in unknown) > OTHER_MODEL_SHARE * sum(map(len, labelled.values())):
        raise InputError(
            f"the sidecar belongs to another model than {name}: {sidecar.model.class_name} has no module "
            f"{text(unknown[0])!r}, which nodes of the graph name",
            "trace the model that was exported",
        )


def scope_steps(names: Iterable[str]) -> list[tuple[str, str]]:
    """Return the levels of a scope as (attribute name, ''), from a node name's components; for models without a trace.

    In such names a module repeats its container's name: `layers/layers.0`. The class, '', is not known.
    """
    steps: list[tuple[str, str]] = []
    before = ""
    for name in names:
        steps.append((name.removeprefix(before + ".") if before else name, ""))
        before = name
    return steps
