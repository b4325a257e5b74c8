"""From what an exporter says of a node to the call that it belongs to.

Exporters name modules, not calls. The candidates of a node are the calls of the module that it names, under the modules
that it names above it; where a module is called several times, the order of the nodes tells its calls apart.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, TypeVar

from mxtools.errors import InputError
from mxtools.graph.index import Graph
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes.annotations import Annotations, Evidence
from mxtools.scopes.hierarchy import ROOT_CALL, Hierarchy

if TYPE_CHECKING:
    from mxtools.traces.sidecar import Sidecar

Candidates = tuple[int, ...]
Said = TypeVar("Said")
"""What an exporter says of a node, as it says it."""

_COUNT = re.compile(r"_\d+$")


class CallIndex:
    """Finds the calls of a trace by what exporters write."""

    def __init__(self, hierarchy: Hierarchy, sidecar: Sidecar) -> None:
        """Index a trace's calls by module and by their names in TorchScript's node names."""
        self.hierarchy = hierarchy
        self.sidecar = sidecar
        self.module = [call.module for call in sidecar.calls]
        self.canonical = {name: m.path for m in sidecar.modules for name in (*m.aliases, m.path)}
        self._by_module: dict[str, list[int]] = defaultdict(list)
        self._below: list[dict[str, int]] = [{}]
        self._at: list[list[int]] = [[]]
        states: list[int] = []
        for number, call in enumerate(sidecar.calls):
            self._by_module[call.module].append(number)
            state = 0 if call.parent is None else self._step(states[call.parent], component(call.module))
            states.append(state)
            self._at[state].append(number)
        self._one: dict[Candidates, Candidates] = {}
        self.by_paths = cache(lambda paths: self._shared(self._by_paths(paths)))
        self.by_name = cache(lambda names: self._shared(self._by_components(components(names))))

    def _shared(self, calls: Candidates) -> Candidates:
        """Give the one tuple of its kind, so that candidates can be compared by identity."""
        return self._one.setdefault(calls, calls)

    def _step(self, state: int, name: str) -> int:
        if name not in self._below[state]:
            self._below[state][name] = len(self._below)
            self._below.append({})
            self._at.append([])
        return self._below[state][name]

    def _by_paths(self, paths: tuple[str, ...]) -> Candidates:
        """Give the calls of the last of some module paths, under the others; none where it is no module.

        A module that the trace did not see called is left out: its work counts as its caller's.
        """
        if any(path not in self.canonical for path in paths[-1:]):
            return ()
        chain = [self.canonical[path] for path in paths if path in self.canonical]
        while chain and chain[-1] not in self._by_module:
            chain.pop()
        if not chain:
            return (ROOT_CALL,)
        calls = self._by_module[chain[-1]]
        if len(calls) == 1:
            return tuple(calls)
        above = set(chain)
        fitting = [c for c in calls if above <= {self.module[a] for a in self.hierarchy.lineage(c)}]
        nearest = min((self.hierarchy.depth[c] for c in fitting), default=None)
        return tuple(c for c in fitting if self.hierarchy.depth[c] == nearest) or tuple(calls)

    def _by_components(self, names: Sequence[str]) -> Candidates:
        """Give the calls that a TorchScript node name's components lead to; none where not even the first is known."""
        states, known = [0], not names
        for name in names:
            following = [
                self._below[s][n] for s in states for n in (name, _COUNT.sub("", name)) if n in self._below[s]
            ][:1]
            if not following:
                break
            states, known = following, True
        return tuple(self._at[states[0]]) if known else ()


def call_index(model: WorkingModel) -> CallIndex | None:
    """Return the index of a model's traced calls, None without a trace; for `WorkingModel.once`."""
    return CallIndex(model.annotations.hierarchy, model.traced) if model.traced else None


def check_model(
    sidecar: Sidecar, said: Mapping[Said, Sequence[int]], found: Container[Said], text: Callable[[Said], str]
) -> None:
    """Refuse a trace of another model: most of the nodes that name a module name one that it does not have.

    `said` are the nodes by what they name, `found` what of that the trace knows. Raises InputError.
    """
    unknown = [name for name in said if name not in found]
    if 2 * sum(len(said[name]) for name in unknown) > sum(map(len, said.values())):
        raise InputError(
            f"the sidecar is of another model: {sidecar.model.class_name} has no module {text(unknown[0])!r}, "
            "which nodes of this graph name",
            "trace the model that was exported",
        )


def component(path: str) -> str:
    """Give a module's part of a TorchScript node name: its path from the last part that is no number on."""
    parts = path.split(".")
    start = next((i for i in range(len(parts) - 1, -1, -1) if not parts[i].isdecimal()), len(parts) - 1)
    return ".".join(parts[start:])


Item = tuple[int, Candidates]
"""A node with its candidates; equal candidates are one object."""


def assign(annotations: Annotations, found: Iterable[tuple[Candidates, Sequence[int]]], evidence: Evidence) -> None:
    """Choose one call for each node among its candidates, which are given for some nodes at a time."""
    several: list[Item] = []
    for calls, nodes in found:
        if len(calls) == 1:
            annotations.set_all(nodes, calls[0], evidence)
        else:
            several += [(node, calls) for node in nodes]
    chosen: dict[int, int] = {}
    _place(annotations.graph, annotations.hierarchy, ROOT_CALL, sorted(several), chosen)
    for node, call in chosen.items():
        annotations.set(node, call, evidence)


def _place(graph: Graph, hierarchy: Hierarchy, at: int, items: Sequence[Item], chosen: dict[int, int]) -> None:
    """Choose for nodes whose candidates all lie below the call `at`: first among its direct children, then below."""
    children: dict[int, Candidates] = {}
    groups: dict[Candidates, list[Item]] = defaultdict(list)
    for node, calls in items:
        if len(calls) == 1 or at in calls:
            chosen[node] = at if at in calls else calls[0]
            continue
        if id(calls) not in children:
            children[id(calls)] = tuple(sorted({hierarchy.below(at, c)[-1] for c in calls}))
        groups[children[id(calls)]].append((node, calls))
    for below, group in groups.items():
        shares = [group] if len(below) == 1 else _divide(graph, hierarchy, below, group)
        for child, share in zip(below, shares, strict=True):
            _place(graph, hierarchy, child, _narrowed(hierarchy, child, share), chosen)


def _narrowed(hierarchy: Hierarchy, child: int, items: Sequence[Item]) -> list[Item]:
    """Leave to nodes only the candidates within a call."""
    within: dict[int, Candidates] = {}
    one: dict[Candidates, Candidates] = {}
    for _, calls in items:
        if id(calls) not in within:
            narrowed = tuple(c for c in calls if hierarchy.within(c, child))
            within[id(calls)] = one.setdefault(narrowed, narrowed)
    return [(node, within[id(calls)]) for node, calls in items]


def _divide(graph: Graph, hierarchy: Hierarchy, children: Candidates, items: Sequence[Item]) -> list[list[Item]]:
    """Divide nodes, in list order, among calls of one module, in the order of the calls.

    Calls of one module do the same work: where the nodes repeat themselves as often as there are calls, each call gets
    one repetition. Else a node goes to the first call that is not over yet when the nodes before it are done.
    """
    count = len(children)
    keys = [(id(calls), graph.nodes[node].op_type) for node, calls in items]
    period, rest = divmod(len(items), count)
    if not rest and keys == keys[:period] * count:
        return [list(items[i * period : (i + 1) * period]) for i in range(count)]
    shares: list[list[Item]] = [[] for _ in children]
    ends: dict[int, list[int]] = {}
    now = which = 0
    for node, calls in items:
        if id(calls) not in ends:
            ends[id(calls)] = [_last(hierarchy, call) for call in calls]
        following = calls[min(bisect_left(ends[id(calls)], now), len(calls) - 1)]
        which = max(which, bisect_right(children, following) - 1)
        now = max(now, following)
        shares[which].append((node, calls))
    return shares


def _last(hierarchy: Hierarchy, call: int) -> int:
    """Give the last call within a call; calls are numbered in execution order, so theirs are consecutive."""
    last = call
    while last + 1 < len(hierarchy) and hierarchy.within(last + 1, call):
        last += 1
    return last


def components(names: str) -> list[str]:
    """Give the components of a TorchScript node name without its last: `/encoder/layer.0`."""
    return names.split("/")[1:]


def join_components(names: Iterable[str]) -> list[tuple[str, str]]:
    """Give the steps of a scope for a TorchScript node name's components, without a trace: (attribute name, class '').

    A module repeats its container's name (`layers/layers.0`); an attribute name stands in for the class.
    """
    steps: list[tuple[str, str]] = []
    before = ""
    for name in names:
        steps.append((name.removeprefix(before + ".") if before else name, ""))
        before = name
    return steps
