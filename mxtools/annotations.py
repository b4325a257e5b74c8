"""What is known of each node: its call in the hierarchy, the evidence for it, and what else is merged into it."""

from __future__ import annotations

import json
from collections import Counter
from enum import StrEnum

from onnx import ModelProto, NodeProto

from mxtools import __version__, keys
from mxtools.hierarchy import Hierarchy
from mxtools.model.graph import Graph


class Evidence(StrEnum):
    """Why a node has its scope, from the most direct to none."""

    METADATA = "metadata"
    NAME = "name"
    PARAMETER = "parameter"
    VALUE = "value"
    PREVIOUS = "previous"
    DATAFLOW = "dataflow"
    ROOT = "root"


INDIRECT = frozenset({Evidence.DATAFLOW, Evidence.ROOT})
"""The evidence of auxiliary operators."""

_Entry = tuple[str, str, str, str]
"""Scope, tag, evidence and merged scopes, as a node bears them."""

_WORDS = {str(word): word for word in Evidence}


class Annotations:
    """The annotations of a model's nodes, by node number of `graph`; `save` writes those that changed to the nodes."""

    def __init__(self, model: ModelProto, graph: Graph, hierarchy: Hierarchy) -> None:
        """Read the annotations that the nodes bear; scopes that a trace does not know are dropped."""
        self.graph = graph
        self.hierarchy = hierarchy
        self.call: list[int | None] = []
        self.evidence: list[Evidence | None] = []
        merged: dict[int, str] = {}
        self._model = model
        self._saved: list[_Entry | None] = []
        for node, proto in enumerate(graph.nodes):
            props = keys.props(proto) if proto.metadata_props else {}
            if keys.SCOPE not in props:
                self.call.append(None)
                self.evidence.append(None)
                self._saved.append(None)
                continue
            call = self._find(props.get(keys.SCOPE), props.get(keys.TAG))
            self.call.append(call)
            self.evidence.append(None if call is None else _WORDS.get(props.get(keys.EVIDENCE, ""), Evidence.PREVIOUS))
            if call is not None and keys.MERGED in props:
                merged[node] = props[keys.MERGED]
            self._saved.append(_entry(props))
        self.merged = {node: self._calls(text) for node, text in merged.items()}

    def set(self, node: int, call: int, evidence: Evidence) -> None:
        """Give a node its call."""
        self.call[node] = call
        self.evidence[node] = evidence

    def counts(self) -> dict[str, int]:
        """Give the number of nodes by evidence, in the order of trust; nodes without any are not counted."""
        found = Counter(word for word in self.evidence if word is not None)
        return {str(word): found[word] for word in Evidence if found[word]}

    def save(self) -> None:
        """Write what changed to the nodes' metadata, and raise an older file to the IR version that has it."""
        nodes, written = self.graph.nodes, dict[tuple[int, str, tuple[int, ...]], tuple[_Entry, NodeProto]]()
        for node, (call, evidence) in enumerate(zip(self.call, self.evidence, strict=True)):
            if call is None or evidence is None:
                continue
            key = (call, evidence._value_, self.merged.get(node, ()))
            if key not in written:
                entry = self._entry(*key)
                written[key] = entry, _written(entry)
            entry, proto = written[key]
            if self._saved[node] != entry:
                if self._saved[node] is not None:
                    keys.replace_props(nodes[node], keys.NODE_KEYS, {})
                nodes[node].MergeFrom(proto)
                self._saved[node] = entry
        if any(call is not None for call in self.call):
            self._model.ir_version = max(self._model.ir_version, keys.FIRST_IR_WITH_NODE_METADATA)

    def _entry(self, call: int, word: str, merged: tuple[int, ...]) -> _Entry:
        """Give what a node is to bear."""
        scopes = self.hierarchy.scopes
        listed = json.dumps([scopes[c] for c in merged]) if merged else ""
        return (scopes[call], self.hierarchy.tags[call], word, listed)

    def _find(self, scope: str | None, tag: str | None) -> int | None:
        """Give the call of a scope that a node bears; an open hierarchy takes it in."""
        if not scope:
            return None
        found = self.hierarchy.find(scope)
        if found is None and self.hierarchy.sidecar is None:
            found = self.hierarchy.adopt(scope, tag or "")
        return found

    def _calls(self, merged: str) -> tuple[int, ...]:
        try:
            scopes = json.loads(merged)
        except ValueError:
            return ()
        found = (
            [self._find(scope, None) for scope in scopes if isinstance(scope, str)] if isinstance(scopes, list) else []
        )
        return tuple(call for call in found if call is not None)


def _written(entry: _Entry) -> NodeProto:
    """Give a node with nothing but an entry in its metadata: merging it adds all at once."""
    proto = NodeProto()
    named = zip((keys.SCOPE, keys.TAG, keys.EVIDENCE, keys.MERGED), entry, strict=True)
    keys.replace_props(proto, keys.NODE_KEYS, {key: value for key, value in named if value or key != keys.MERGED})
    return proto


def _entry(props: dict[str, str]) -> _Entry:
    return (props[keys.SCOPE], props.get(keys.TAG, ""), props.get(keys.EVIDENCE, ""), props.get(keys.MERGED, ""))


def read_absent(model: ModelProto) -> dict[str, str]:
    """Give the scopes that a trace knew and no node bears, each with its reason; empty where the file has none."""
    try:
        absent = json.loads(keys.props(model).get(keys.ABSENT, "{}"))
    except ValueError:
        return {}
    return {str(k): str(v) for k, v in absent.items()} if isinstance(absent, dict) else {}


def write_absent(model: ModelProto, absent: dict[str, str]) -> None:
    """Write the model's own metadata: the version, and the scopes that no node bears."""
    values = {keys.VERSION: __version__}
    if absent:
        values[keys.ABSENT] = json.dumps(absent, ensure_ascii=False)
    keys.replace_props(model, keys.MODEL_KEYS, values)
