"""What is known of each node: its call in the hierarchy, the evidence for it, and what else is merged into it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from enum import StrEnum
from functools import cache

from onnx import ModelProto

from mxtools.files.json_text import list_of_texts, texts_by_name
from mxtools.files.version import VERSION
from mxtools.graph.index import Graph
from mxtools.scopes import keys
from mxtools.scopes.hierarchy import Hierarchy
from mxtools.scopes.scope import DEEPEST


class Evidence(StrEnum):
    """Why a node has its scope, from the most direct to none."""

    METADATA = "metadata"
    NAME = "name"
    PARAMETER = "parameter"
    VALUE = "value"
    PREVIOUS = "previous"
    DATAFLOW = "dataflow"
    ROOT = "root"

    __hash__ = str.__hash__  # Enum's own is a Python function, which every node would call


INDIRECT = frozenset({Evidence.DATAFLOW, Evidence.ROOT})
"""The evidence of auxiliary operators."""

_Entry = tuple[str, str, str, str]
"""Scope, tag, evidence and merged scopes, as a node bears them."""

_REMOVED: _Entry = ("", "", "", "")
"""What a node has whose annotations are to be removed."""

_WORDS = {str(word): word for word in Evidence}


class Annotations:
    """The annotations of a model's nodes, by node number of `graph`; `save` writes those that changed to the nodes.

    `described` are the nodes that had any metadata when they were read, ours or another's.
    """

    def __init__(self, model: ModelProto, graph: Graph, hierarchy: Hierarchy, blank: bool = False) -> None:
        """Read the annotations that the nodes have; scopes that a trace does not know are dropped.

        With `blank` they are not taken over, and `save` removes them from the nodes that get no new ones.
        """
        self.graph = graph
        self.hierarchy = hierarchy
        self.call: list[int | None] = [None] * len(graph.nodes)
        self.evidence: list[Evidence | None] = [None] * len(graph.nodes)
        self.described = [node for node, proto in enumerate(graph.nodes) if proto.metadata_props]
        self._model = model
        self._saved: list[_Entry | None] = [None] * len(graph.nodes)
        self.merged: dict[int, tuple[int, ...]] = {}
        found: dict[int, dict[str, str]] = {}
        for node in self.described:
            props = keys.props(graph.nodes[node])
            if blank and not keys.NODE_KEYS.isdisjoint(props):
                self._saved[node] = _REMOVED
            elif not blank and keys.SCOPE in props:
                self._saved[node] = _entry(props)
                found[node] = props
        self.read(found)

    @property
    def absent(self) -> dict[str, str]:
        """The scopes that a trace knew and no node has, each with its reason, as the model's metadata say."""
        return read_absent(self._model)

    def read(self, entries: Mapping[int, Mapping[str, str]]) -> None:
        """Annotate nodes from entries of metadata, by node number."""
        taken = {}
        for node, props in entries.items():
            call = self._find(props[keys.SCOPE], props.get(keys.TAG))
            if call is not None:
                self.set(node, call, _WORDS.get(props.get(keys.EVIDENCE, ""), Evidence.PREVIOUS))
                taken[node] = props.get(keys.MERGED, "")
        self.merged.update({node: self._calls(text) for node, text in taken.items() if text})

    def merged_away(self) -> set[int]:
        """Give the calls that end inside a node which is another's."""
        within = self.hierarchy.within
        return {
            c for n, calls in self.merged.items() for c in calls if (at := self.call[n]) is None or not within(at, c)
        }

    def set(self, node: int, call: int, evidence: Evidence) -> None:
        """Give a node its call."""
        self.call[node] = call
        self.evidence[node] = evidence

    def set_all(self, nodes: Iterable[int], call: int, evidence: Evidence) -> None:
        """Give some nodes one call."""
        for node in nodes:
            self.call[node] = call
            self.evidence[node] = evidence

    def leaves(self, value: int, call: int) -> bool:
        """Tell whether a value is read outside of a call, or is an output of the graph."""
        outside = (self.call[node] for node in self.graph.readers[value])
        read = any(at is None or not self.hierarchy.within(at, call) for at in outside)
        return read or value in self.graph.outputs

    def counts(self) -> dict[str, int]:
        """Give the number of nodes by evidence, in the order of trust; nodes without any are not counted."""
        found = Counter(self.evidence)
        return {str(word): found[word] for word in Evidence if found[word]}

    def save(self) -> None:
        """Write what changed to the nodes' metadata, and raise an older file to the IR version that has it."""
        merged, encoded = self.merged, cache(keys.encoded)
        written: dict[tuple[int, Evidence, tuple[int, ...]], tuple[_Entry, bytes]] = {}
        states = zip(self.graph.nodes, self.call, self.evidence, self._saved, strict=True)
        for node, (proto, call, evidence, saved) in enumerate(states):
            if call is None or evidence is None:
                if saved is _REMOVED:
                    self._saved[node] = None
                    keys.replace_props(proto, keys.NODE_KEYS, {})
                continue
            key = (call, evidence, merged.get(node, ()))
            if key not in written:
                entry = self._entry(*key)
                text = b"".join([encoded(*pair) for pair in zip(keys.TAG_KEYS, entry, strict=True) if pair[1]])
                written[key] = entry, text
            entry, text = written[key]
            if saved is not None:
                if saved == entry:
                    continue
                keys.replace_props(proto, keys.NODE_KEYS, {})
            self._saved[node] = entry
            proto.MergeFromString(text)
        if any(call is not None for call in self.call):
            self._model.ir_version = max(self._model.ir_version, keys.FIRST_IR_WITH_NODE_METADATA)

    def _entry(self, call: int, word: Evidence, merged: tuple[int, ...]) -> _Entry:
        """Give what a node is to bear."""
        scopes = self.hierarchy.scopes
        listed = json.dumps([scopes[c] for c in merged]) if merged else ""
        return (scopes[call], self.hierarchy.tags[call], word, listed)

    def _find(self, scope: str | None, tag: str | None) -> int | None:
        """Give the call of a scope that a node bears; an open hierarchy takes it in, and learns the root's class."""
        if not scope or scope.count(".") >= DEEPEST:
            return None
        found = self.hierarchy.find(scope)
        if not found and not self.hierarchy.is_traced:
            found = self.hierarchy.adopt(scope, tag or "")
        return found

    def _calls(self, merged: str) -> tuple[int, ...]:
        found = [self._find(scope, None) for scope in list_of_texts(merged)]
        return tuple(call for call in found if call is not None)


def _entry(props: dict[str, str]) -> _Entry:
    return (props[keys.SCOPE], props.get(keys.TAG, ""), props.get(keys.EVIDENCE, ""), props.get(keys.MERGED, ""))


def read_absent(model: ModelProto) -> dict[str, str]:
    """Give the scopes that a trace knew and no node bears, each with its reason; empty where the file has none."""
    return texts_by_name(keys.props(model).get(keys.ABSENT, "{}"))


def write_absent(model: ModelProto, absent: dict[str, str]) -> None:
    """Write the model's own metadata: the version, and the scopes that no node bears."""
    values = {keys.VERSION: VERSION}
    if absent:
        values[keys.ABSENT] = json.dumps(absent, ensure_ascii=False)
    keys.replace_props(model, keys.MODEL_KEYS, values)
