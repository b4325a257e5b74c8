"""Comparing two tagged models by module: what is in one only, nodes, weights, numbers, and the interface."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from onnx import ModelProto

from mxtools.comparison.contents import UNTAGGED, Contents, Digests, ModuleContent
from mxtools.comparison.whole import WholeWork
from mxtools.errors import listed
from mxtools.graph.functions import model_nodes
from mxtools.graph.index import graph_inputs
from mxtools.graph.operators import plain_domain, versions
from mxtools.graph.types import type_text
from mxtools.pipeline.working_model import WorkingModel
from mxtools.runtime.distance import Distance, worst
from mxtools.scopes.annotations import MERGED_INTO
from mxtools.scopes.scope import ROOT

MOST_NAMED = 3
"""How many names of weights a note on one module has."""


@dataclass(frozen=True)
class Change:
    """Something of the first model (`before`) and its counterpart in the second (`after`); None is nothing."""

    name: str
    before: str | None
    after: str | None

    def to_dict(self) -> dict[str, Any]:
        """Return the change as plain data."""
        return {"name": self.name, "before": self.before, "after": self.after}

    def __str__(self) -> str:
        """Return the change in words."""
        return f"{self.name}: {self.before or 'none'} → {self.after or 'none'}"


@dataclass(frozen=True)
class Number:
    """A tensor at the boundary of a module, its names in both models, and how far the second is from the first."""

    tensor: str
    other: str
    distance: Distance


@dataclass
class ComparedModule:
    """One call of a module in both models; it has only what is its own, without the calls inside."""

    scope: str
    tag: str
    only_in: str = ""
    """`A` or `B`, if the other model has no node of the module."""
    reason: str = ""
    """Why the other model has none, if that file says it."""
    nodes: tuple[int, int] = (0, 0)
    operators: dict[str, tuple[int, int]] = field(default_factory=dict)
    """The operators whose numbers differ between the models, with both numbers."""
    rewired: bool = False
    """Whether nodes differ, in attributes or connections, although the numbers of operators are the same."""
    weights: list[Change] = field(default_factory=list)
    inputs: list[Change] = field(default_factory=list)
    """The modules, or inputs of the graph, that it reads in one model but not in the other."""
    numbers: list[Number] = field(default_factory=list)
    children: list[ComparedModule] = field(default_factory=list, repr=False)
    equal: tuple[str, ...] = ()
    """In tables, the scopes of the siblings after it that differ in the same way."""

    @property
    def distance(self) -> Distance | None:
        """The largest error at its boundary, None if nothing is compared."""
        return worst(number.distance for number in self.numbers)

    def differs(self, tolerance: float) -> list[str]:
        """Return what differs, in words."""
        apart = self.distance
        found = {
            "presence": bool(self.only_in),
            "nodes": bool(self.operators) or self.rewired,
            "weights": bool(self.weights),
            "inputs": bool(self.inputs),
            "numbers": apart is not None and not apart.relative <= tolerance,
        }
        return [word for word, is_so in found.items() if is_so]

    def notes(self, tolerance: float, one: str = "A", other: str = "B") -> list[str]:
        """Return what differs and how, in words for people; `one` and `other` name the models."""
        found = []
        if self.only_in:
            found.append(
                f"only in {one if self.only_in == 'A' else other}" + (f" ({self.reason})" if self.reason else "")
            )
        found += [f"{after - before:+d} {operator}" for operator, (before, after) in self.operators.items()]
        if self.rewired:
            found.append("nodes with other attributes or connections")
        found += [f"reads {change.after} instead of {change.before}" for change in self.inputs]
        if self.weights:
            found.append(f"weights: {_weights_note(self.weights)}")
        if "numbers" in self.differs(tolerance):
            found.append("numbers")
        return found


def _weights_note(changes: list[Change]) -> str:
    """Return the names of the first weights that changed, and how many were removed and added."""
    changed = [change for change in changes if change.before and change.after]
    types = [c.name + (f" {c.before} → {c.after}" if c.before != c.after else "") for c in changed]
    gone, new = (sum(not which for which in side) for side in zip(*((c.after, c.before) for c in changes), strict=True))
    parts = [listed(types, MOST_NAMED)] if types else []
    return ", ".join([*parts, *([f"{gone} gone"] if gone else []), *([f"{new} new"] if new else [])])


@dataclass
class Comparison:
    """Both models by module, callers first, and how their interfaces differ."""

    modules: list[ComparedModule]
    interface: list[Change]

    def __repr__(self) -> str:
        """Return the numbers of modules and of those that differ, in one line."""
        return f"<Comparison: {len(self.modules)} modules, {len(self.differing(0))} differ>"

    @property
    def is_of_strangers(self) -> bool:
        """Whether there are modules besides the root, but none is in both models."""
        inner = self.modules[1:]
        return bool(inner) and all(module.only_in for module in inner)

    def differing(self, tolerance: float) -> list[ComparedModule]:
        """Return the modules that differ."""
        return [module for module in self.modules if module.differs(tolerance)]

    def notes(self, one: str, other: str, tolerance: float = 0) -> dict[str, list[str]]:
        """Return by scope how the modules that differ do so; nodes without a scope count for the root."""
        found: dict[str, list[str]] = {}
        for module in self.differing(tolerance):
            scope, notes = module.scope, module.notes(tolerance, one, other)
            if scope == UNTAGGED:
                scope, notes = ROOT, [f"nodes without a scope: {note}" for note in notes]
            found.setdefault(scope, []).extend(notes)
        return found


def compare(one: WorkingModel, other: WorkingModel) -> Comparison:
    """Compare everything but the numbers of two tagged models; raise InputError if one of them has no scopes."""
    one.require_tagged("A")
    other.require_tagged("B")
    digests: Digests = {}
    both = _BothContents(Contents(one, digests), Contents(other, digests))
    modules = both.modules(one.absent, other.absent)
    found = Comparison(modules, interface_changes(one.proto, other.proto) + both.output_makers())
    if not found.interface and not found.differing(0):
        one.graph.require_order()
        other.graph.require_order()
        both.mark_whole_work(found, WholeWork(one.proto, both.a), WholeWork(other.proto, both.b))
    return found


class _BothContents:
    """The contents of two models, `a` and `b`.

    Attributes: `scopes`, those of either; `inserted_a` and `inserted_b`, the nodes that a tool put in before modules
    that are the same without them; `moved_a` and `moved_b`, these nodes by the scope for which they count.
    """

    def __init__(self, a: Contents, b: Contents) -> None:
        self.a, self.b = a, b
        self.scopes = a.scopes | {s: place for s, place in b.scopes.items() if s not in a.scopes}
        self.inserted_a, self.inserted_b = set[int](), set[int]()
        for scope in self.scopes:
            self._find_inserted(scope)
        self.moved_a, self.moved_b = (
            self._by_scope(contents, inserted) for contents, inserted in ((a, self.inserted_a), (b, self.inserted_b))
        )

    def modules(self, absent_a: dict[str, str], absent_b: dict[str, str]) -> list[ComparedModule]:
        """Compare all modules; `absent_a` and `absent_b` have the reasons of scopes without nodes."""
        merged_a, merged_b = _merged(self.a), _merged(self.b)
        found: dict[str, ComparedModule] = {}
        for scope, (tag, caller) in self.scopes.items():
            found[scope] = module = self._module(scope, tag)
            if caller:
                found[caller].children.append(module)
            if scope not in self.b.scopes and scope != UNTAGGED:
                module.only_in, module.reason = "A", absent_b.get(scope) or merged_b.get(scope, "")
            elif scope not in self.a.scopes and scope != UNTAGGED:
                module.only_in, module.reason = "B", absent_a.get(scope) or merged_a.get(scope, "")
        return list(found.values())

    def _find_inserted(self, scope: str) -> None:
        """Find the nodes that a tool put in before a module, if the module has the same nodes without them."""
        if self.a.content(self.a.nodes(scope)).nodes == self.b.content(self.b.nodes(scope)).nodes:
            return
        new_a, new_b = self.a.inserted(scope, self.b.names), self.b.inserted(scope, self.a.names)
        left_a = self.a.content(n for n in self.a.nodes(scope) if n not in new_a)
        left_b = self.b.content(n for n in self.b.nodes(scope) if n not in new_b)
        if left_a.nodes == left_b.nodes:
            self.inserted_a |= new_a
            self.inserted_b |= new_b

    @staticmethod
    def _by_scope(contents: Contents, inserted: set[int]) -> dict[str, list[int]]:
        found = defaultdict(list)
        for node in sorted(inserted):
            found[contents.scope_around(node, inserted)].append(node)
        return found

    def _module(self, scope: str, tag: str) -> ComparedModule:
        nodes_a = [n for n in self.a.nodes(scope) if n not in self.inserted_a] + self.moved_a.get(scope, [])
        nodes_b = [n for n in self.b.nodes(scope) if n not in self.inserted_b] + self.moved_b.get(scope, [])
        a, b = self.a.content(sorted(nodes_a)), self.b.content(sorted(nodes_b))
        counts = {op: (a.operators[op], b.operators[op]) for op in sorted({*a.operators, *b.operators})}
        operators = {op: count for op, count in counts.items() if count[0] != count[1]}
        same = a.nodes == b.nodes
        return ComparedModule(
            scope,
            tag,
            nodes=(len(nodes_a), len(nodes_b)),
            operators=operators,
            rewired=not same and not operators,
            weights=_weights(a, b),
            inputs=self._inputs(a, b) if same else [],
        )

    def _inputs(self, a: ModuleContent, b: ModuleContent) -> list[Change]:
        """Return what the same nodes read from other modules in the second model; only modules of both models count."""
        reads_a = Counter((digest, at, self.a.source(v, self.inserted_a)) for digest, at, v in a.reads)
        reads_b = Counter((digest, at, self.b.source(v, self.inserted_b)) for digest, at, v in b.reads)
        before = sorted({source for _, _, source in reads_a - reads_b})
        after = sorted({source for _, _, source in reads_b - reads_a})
        if not (before and after) or not self._known.issuperset((*before, *after)):
            return []
        return [Change("reads", ", ".join(before), ", ".join(after))]

    @cached_property
    def _known(self) -> set[str]:
        """The modules, and inputs of the graph, that both models have."""
        inputs = ({side.graph.names[value] for value in side.graph.inputs} for side in (self.a, self.b))
        return (self.a.scopes.keys() & self.b.scopes.keys()) | set.intersection(*inputs)

    def output_makers(self) -> list[Change]:
        """Return the outputs of both models that another module makes in the second one."""
        makers = []
        for contents, inserted in ((self.a, self.inserted_a), (self.b, self.inserted_b)):
            graph = contents.graph
            found = {graph.names[value]: contents.source(value, inserted) for value in graph.outputs}
            makers.append({name: scope for name, scope in found.items() if scope in self._known})
        a, b = ({name: found[name] for name in found if all(name in other for other in makers)} for found in makers)
        return _changes("maker of output", a, b)

    def mark_whole_work(self, found: Comparison, work_a: WholeWork, work_b: WholeWork) -> None:
        """Mark the modules in which differences begin that no module shows by itself; else the outputs that differ."""
        begins = ((self.a, work_a.begins(work_b)), (self.b, work_b.begins(work_a)))
        scopes = {contents.scope(node) for contents, nodes in begins for node in nodes}
        for module in found.modules:
            module.rewired = module.scope in scopes
        if not scopes:
            results = ({name: of.hex() for name, of in work.outputs.items()} for work in (work_a, work_b))
            found.interface += _changes("what is returned as", *results)


def _merged(contents: Contents) -> dict[str, str]:
    """Return the scopes whose work nodes of other scopes do, with the reason why they are absent."""
    annotations = contents.annotations
    scopes = annotations.hierarchy.scopes
    return {
        scopes[call]: MERGED_INTO + contents.scope(node)
        for node in annotations.merged
        for call in annotations.ending_in(node)
    }


def _weights(a: ModuleContent, b: ModuleContent) -> list[Change]:
    """Return the weights that only one of two modules has, with weights of the same name as one change.

    If both modules have the same weights and nodes, return those that changed places.
    """
    before = {name: weight for weight, name in a.weights.items() if weight not in b.weights}
    after = {name: weight for weight, name in b.weights.items() if weight not in a.weights}
    if not before and not after and a.nodes == b.nodes:
        moved = {weight for _, _, weight in a.uses ^ b.uses}
        return [Change(name, weight[0], weight[0]) for weight, name in a.weights.items() if weight in moved]
    return [
        Change(name, before[name][0] if name in before else None, after[name][0] if name in after else None)
        for name in sorted({*before, *after})
    ]


def interface_changes(one: ModelProto, other: ModelProto) -> list[Change]:
    """Return how inputs, outputs and operator sets differ: in their names, types and shapes, and in their order."""
    found = []
    for what in ("input", "output"):
        before, after = (_values(model, what) for model in (one, other))
        found += _changes(what, before, after)
        if list(before) != list(after) and sorted(before) == sorted(after):
            found.append(Change(f"order of {what}s", ", ".join(before), ", ".join(after)))
    return found + _changes("operator set", _opsets(one), _opsets(other))


def _opsets(model: ModelProto) -> dict[str, str]:
    """Return the versions of the operator sets that nodes use; optimisers import every set that they know."""
    used = {plain_domain(node.domain) for node in model_nodes(model)}
    found = versions(model.opset_import)
    return {domain or "ai.onnx": str(version) for domain, version in found.items() if domain in used}


def _values(model: ModelProto, what: str) -> dict[str, str]:
    values = graph_inputs(model) if what == "input" else model.graph.output
    return {value.name: type_text(value.type) for value in values}


def _changes(what: str, before: dict[str, str], after: dict[str, str]) -> list[Change]:
    return [
        Change(f"{what} {name}", before.get(name), after.get(name))
        for name in dict.fromkeys((*before, *after))
        if before.get(name) != after.get(name)
    ]
