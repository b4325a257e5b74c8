"""What a rule of validation is, the table in which all rules are registered, and the model as rules see it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
from onnx import ModelProto, TensorProto, ValueInfoProto

from mxtools.evidence.data_flow import resolve
from mxtools.files.weights import tensors_of
from mxtools.graph.index import Graph
from mxtools.graph.shapes import infer_types, make_sparse_inputs, value_infos
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes import keys
from mxtools.scopes.annotations import Annotations
from mxtools.scopes.hierarchy import Hierarchy
from mxtools.scopes.scope import ROOT, enclosing_scopes, is_scope, join
from mxtools.scopes.tags import align

if TYPE_CHECKING:
    from mxtools.traces.sidecar import Call

Mend = Callable[[], str]
"""A function that mends a fault in place and returns what it did, in words."""


class Severity(StrEnum):
    """How bad a finding is: wrong, doubtful, or good to know."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True)
class Fault:
    """What a rule finds: the reason, the node or scope, and a function that mends it, if there is one."""

    reason: str
    node: int | None = None
    scope: str = ""
    mend: Mend | None = None


@dataclass(frozen=True)
class Rule:
    """One thing that is checked; skipped if one of the rules in `unless` has found something.

    `remedy` is a template of `mxtools.errors`: `⟨tag⟩` and the like stand for the words of Python or of the command
    line.
    """

    name: str
    severity: Severity
    title: str
    remedy: str
    unless: tuple[str, ...]
    find: Callable[[CheckedModel], Iterator[Fault]]


RULES: dict[str, Rule] = {}
"""All rules by name, in the order in which they are checked."""


def rule(
    name: str, severity: Severity, remedy: str, unless: tuple[str, ...] = ()
) -> Callable[[Callable[[CheckedModel], Iterator[Fault]]], Callable[[CheckedModel], Iterator[Fault]]]:
    """Register a function as a rule; its docstring is the rule's title, as reports show it."""

    def register(find: Callable[[CheckedModel], Iterator[Fault]]) -> Callable[[CheckedModel], Iterator[Fault]]:
        """Enter a function into the table."""
        RULES[name] = Rule(name, severity, (find.__doc__ or "").strip(), remedy, unless, find)
        return find

    return register


@dataclass
class CheckedModel:
    """A model as rules see it, and the folder of its sidecar; what several rules need is computed once."""

    model: WorkingModel
    folder: Path = Path()

    @cached_property
    def graph(self) -> Graph:
        """The index of the model."""
        return self.model.graph

    @property
    def proto(self) -> ModelProto:
        """The model's message."""
        return self.model.proto

    @cached_property
    def infos(self) -> dict[str, ValueInfoProto]:
        """The types of the main graph's values by name, as ONNX infers them strictly; raises what it raises."""
        model = self.light()
        make_sparse_inputs(model.graph)
        return value_infos(infer_types(model.SerializeToString(), checking=True))

    @cached_property
    def annotations(self) -> Annotations:
        """The tags of the nodes, read only for the rules, because mending changes the nodes and not these."""
        return self._read()

    @cached_property
    def entries(self) -> list[dict[str, str]]:
        """The metadata of each node; if a key is there twice, the last value."""
        return [keys.props(node) if node.metadata_props else {} for node in self.graph.nodes]

    @cached_property
    def tagged(self) -> bool:
        """Whether any node has a scope."""
        return any(keys.SCOPE in props for props in self.entries)

    @cached_property
    def traced(self) -> dict[str, int]:
        """The number of the call of each scope of the trace; empty without a trace."""
        return {call.scope: number for number, call in enumerate(self.calls)}

    @property
    def calls(self) -> tuple[Call, ...]:
        """The calls of the trace; empty without a trace."""
        return self.model.sidecar.calls if self.model.sidecar else ()

    @property
    def has_trace(self) -> bool:
        """Whether there is a trace."""
        return self.model.sidecar is not None

    @cached_property
    def scopes(self) -> dict[int, str]:
        """The scopes by node, without malformed ones and, if there is a trace, without those that it lacks."""
        found = ((node, props[keys.SCOPE]) for node, props in enumerate(self.entries) if keys.SCOPE in props)
        return {n: s for n, s in found if is_scope(s) and (not self.has_trace or s in self.traced)}

    @cached_property
    def scopes_with_nodes(self) -> set[str]:
        """The scopes of nodes, and those around them."""
        return {around for scope in set(self.scopes.values()) for around in prefixes(scope)}

    @cached_property
    def tags(self) -> dict[str, str]:
        """The tag of each scope: the trace's, else the one that most nodes at and below the scope agree on."""
        if self.has_trace:
            return {call.scope: call.tag for call in self.calls}
        votes: dict[str, Counter[str]] = {}
        for (scope, tag), count in Counter(
            (s, self.entries[n].get(keys.TAG, "")) for n, s in self.scopes.items()
        ).items():
            for around, its_tag in levels(scope, tag):
                votes.setdefault(around, Counter())[its_tag] += count
        found = {scope: tags.most_common(1)[0][0] for scope, tags in votes.items()}
        tree = Hierarchy()
        for scope, tag in found.items():
            tree.adopt(scope, tag)
        numbers = {scope: tree.adopt(scope, found.get(scope, "")) for scope in dict.fromkeys(self.scopes.values())}
        return {scope: tree.tags[number] for scope, number in numbers.items()} | found

    def _read(self) -> Annotations:
        return Annotations(self.proto, self.graph, Hierarchy(self.calls))

    def light(self) -> ModelProto:
        """Return a copy for ONNX's checker, with large weights as inputs and without the model's metadata."""
        copy, weights = ModelProto(), self.model.weights
        copy.CopyFrom(self.proto)
        del copy.metadata_props[:]
        known = {info.name for info in copy.graph.input}
        initializers = list(copy.graph.initializer)
        del copy.graph.initializer[:]
        for tensor in initializers:
            if tensor.data_location != TensorProto.EXTERNAL:
                copy.graph.initializer.append(tensor)
            elif tensor.name not in known:
                copy.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        for tensor in tensors_of(copy):
            if tensor.data_location == TensorProto.EXTERNAL:
                tensor.CopyFrom(weights.inline(tensor))
        return copy

    def mend_untagged(self, node: int) -> Mend:
        """Return a function that gives a node, and all others without a scope, the scopes of their neighbours."""

        def mend() -> str:
            """Give all nodes without a scope those of their neighbours."""
            if keys.SCOPE not in keys.props(self.graph.nodes[node]):
                for proto in self.graph.nodes:
                    if keys.SCOPE not in keys.props(proto):
                        keys.replace_props(proto, keys.NODE_KEYS, {})
                annotations = self._read()
                resolve(annotations)
                annotations.save()
            return f"gave it {keys.props(self.graph.nodes[node])[keys.SCOPE]}, by data flow"

        return mend


def prefixes(scope: str) -> Iterator[str]:
    """Yield the root, all scopes around a scope, and the scope itself."""
    yield ROOT
    if scope != ROOT:
        yield from enclosing_scopes(scope)
        yield scope


def levels(scope: str, tag: str) -> list[tuple[str, str]]:
    """Return a scope and those around it, root first, each with its part of the tag; empty if they do not fit."""
    outside, *names = tag.split("/")
    steps = align(scope, tag)
    if outside or not names or not names[0] or len(steps) != len(names) - 1:
        return []
    found = [(ROOT, f"/{names[0]}")]
    for local, level in steps:
        found.append((join(found[-1][0], local), f"{found[-1][1]}/{level}"))
    return found if found[-1][0] == scope else []
