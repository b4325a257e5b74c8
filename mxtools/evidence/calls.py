"""From what an exporter writes on a node to the call that the node belongs to.

    x ─ Neg ─── Abs ──── Relu ──── Abs ──── Relu ─ y
        pre  block.abs  block   block.abs  block             what the exporter wrote
         1       3        2         5        4               what is right, by the numbers of the calls

    calls: 0 the root, 1 `pre`, 2 `block`, 3 `block.abs`, 4 `block@1`, 5 `block@1.abs`

Exporters name modules, not calls. So a node has *candidates*: the calls of the module that it names, as far as they lie
under the modules that it names above it; (2, 4) for each Relu, (3, 5) for each Abs. What is left to tell the calls of
one module apart is the order of the nodes, which is that of the program.

The obvious way, the n-th node of a module for its n-th call, fails where a call has two nodes, or none: an exporter
splits, merges and drops nodes. So it is decided from the root downwards: nodes whose candidates lie below the same
children of a call (here `block` and `block@1`) are divided among these children together. Calls of one module do the
same work: Abs, Relu, Abs, Relu repeats itself twice, so each of the two calls gets one repetition. Where nothing
repeats (a node was dropped), a node goes to the first call that is not over yet when the nodes before it are done:
after a node of `block.b` a node of `block.a` is of the next call of `block`, if `a` runs before `b`.
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
"""The calls that a node can belong to."""
Label = TypeVar("Label")
"""What an exporter writes on a node to say its module, as it writes it: a node name's path, or a list of paths."""

OTHER_MODEL_SHARE = 0.5
"""The share of unknown modules, or scopes, above which a trace counts as that of another model.

Of the right model, also of a part of it or of another version, a trace knows most; of another model nearly nothing.
Half lies far from both.
"""

_COUNT = re.compile(r"_\d+$")
"""What TorchScript puts behind a module's name at its second, third … call: `_1`, `_2` …"""


class CallIndex:
    """Finds the calls of a trace by what exporters write."""

    def __init__(self, hierarchy: Hierarchy, sidecar: Sidecar) -> None:
        """Index a trace's calls by module, and by the names that TorchScript gives to their nodes.

        The names are a tree: `_next` has for each of its places the places below by name, `_calls_at` the calls there.
        """
        self.hierarchy = hierarchy
        self.sidecar = sidecar
        self.module = [call.module for call in sidecar.calls]
        self.canonical = {name: m.path for m in sidecar.modules for name in (*m.aliases, m.path)}
        self._calls_of: dict[str, list[int]] = defaultdict(list)
        self._next: list[dict[str, int]] = [{}]
        self._calls_at: list[list[int]] = [[]]
        places: list[int] = []
        for number, call in enumerate(sidecar.calls):
            self._calls_of[call.module].append(number)
            place = 0 if call.parent is None else self._step(places[call.parent], name_component(call.module))
            places.append(place)
            self._calls_at[place].append(number)
        self._unique: dict[Candidates, Candidates] = {}
        self.by_paths = cache(lambda paths: self._interned(self._by_paths(paths)))
        self.by_name = cache(lambda names: self._interned(self._by_components(name_components(names))))

    def _interned(self, calls: Candidates) -> Candidates:
        """Return the one tuple of these calls, so that candidates can be compared by identity."""
        return self._unique.setdefault(calls, calls)

    def _step(self, place: int, name: str) -> int:
        """Return the place of a name below a place in the tree of names, which is entered if it is new."""
        if name not in self._next[place]:
            self._next[place][name] = len(self._next)
            self._next.append({})
            self._calls_at.append([])
        return self._next[place][name]

    def _by_paths(self, paths: tuple[str, ...]) -> Candidates:
        """Return the calls of the last of some module paths that lie under the others; none where it is no module.

        A module that was not called in the trace is left out: its work counts as its caller's.
        """
        if any(path not in self.canonical for path in paths[-1:]):
            return ()
        chain = [self.canonical[path] for path in paths if path in self.canonical]
        while chain and chain[-1] not in self._calls_of:
            chain.pop()
        if not chain:
            return (ROOT_CALL,)
        calls = self._calls_of[chain[-1]]
        if len(calls) == 1:
            return tuple(calls)
        modules = set(chain)
        fitting = [c for c in calls if modules <= {self.module[a] for a in self.hierarchy.lineage(c)}]
        nearest = min((self.hierarchy.depth[c] for c in fitting), default=None)
        return tuple(c for c in fitting if self.hierarchy.depth[c] == nearest) or tuple(calls)

    def _by_components(self, names: Sequence[str]) -> Candidates:
        """Return the calls that the components of a TorchScript node name lead to; none if the first is unknown."""
        place, is_known = 0, not names
        for name in names:
            following = next((n for n in (name, _COUNT.sub("", name)) if n in self._next[place]), None)
            if following is None:
                break
            place, is_known = self._next[place][following], True
        return tuple(self._calls_at[place]) if is_known else ()


def call_index(model: WorkingModel) -> CallIndex | None:
    """Return the index of a model's traced calls, None without a trace; for `WorkingModel.once`."""
    return CallIndex(model.annotations.hierarchy, model.traced) if model.traced else None


def require_same_model(
    sidecar: Sidecar, labelled: Mapping[Label, Sequence[int]], known: Container[Label], text: Callable[[Label], str]
) -> None:
    """Raise InputError where a trace is of another model: it does not have most of the modules that nodes name.

    `labelled` are the nodes by what they name, `known` the names that the trace has, `text` writes one for the message.
    """
    unknown = [label for label in labelled if label not in known]
    if sum(len(labelled[label]) for label in unknown) > OTHER_MODEL_SHARE * sum(map(len, labelled.values())):
        raise InputError(
            f"the sidecar is of another model: {sidecar.model.class_name} has no module {text(unknown[0])!r}, "
            "which nodes of this graph name",
            "trace the model that was exported",
        )


def name_component(path: str) -> str:
    """Return a module's part of a TorchScript node name: its path from the last part on that is no number."""
    parts = path.split(".")
    start = next((i for i in range(len(parts) - 1, -1, -1) if not parts[i].isdecimal()), len(parts) - 1)
    return ".".join(parts[start:])


Item = tuple[int, Candidates]
"""A node with its candidates; equal candidates are one object."""


def assign(annotations: Annotations, found: Iterable[tuple[Candidates, Sequence[int]]], evidence: Evidence) -> None:
    """Annotate each node with one of its candidates; `found` are pairs of candidates and the nodes that have these."""
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
    """Choose the call of each node, where all candidates lie within the call `at`, and enter it in `chosen`.

    A node of which `at` itself is a candidate gets it. The others are divided among the direct children of `at`, and
    then placed within their child.
    """
    children: dict[int, Candidates] = {}
    groups: dict[Candidates, list[Item]] = defaultdict(list)
    for node, calls in items:
        if len(calls) == 1 or at in calls:
            chosen[node] = at if at in calls else calls[0]
            continue
        if id(calls) not in children:
            children[id(calls)] = tuple(sorted({hierarchy.path_below(at, c)[-1] for c in calls}))
        groups[children[id(calls)]].append((node, calls))
    for below, group in groups.items():
        shares = [group] if len(below) == 1 else _divide(graph, hierarchy, below, group)
        for child, share in zip(below, shares, strict=True):
            _place(graph, hierarchy, child, _narrowed(hierarchy, child, share), chosen)


def _narrowed(hierarchy: Hierarchy, child: int, items: Sequence[Item]) -> list[Item]:
    """Return nodes with only those of their candidates that lie within a call."""
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
    one repetition. Else a node goes to the first call that is not over yet when the nodes before it are done. `now` is
    the latest call that was reached by then, `which` the place of the child that it lies in.
    """
    count = len(children)
    keys = [(id(calls), graph.nodes[node].op_type) for node, calls in items]
    period, rest = divmod(len(items), count)
    if not rest and keys == keys[:period] * count:  # a, b, a, b for two calls
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
    """Return the last call within a call; calls are numbered in execution order, so those within are consecutive."""
    last = call
    while last + 1 < len(hierarchy) and hierarchy.within(last + 1, call):
        last += 1
    return last


def name_components(name: str) -> list[str]:
    """Return the components of a TorchScript node name that is given without its last: `/encoder/layer.0`."""
    return name.split("/")[1:]


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
