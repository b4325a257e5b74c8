"""What is known of each node: its call in the hierarchy, the evidence for that, and the calls merged into the node.

Annotations lie in lists by node number while passes work, and in the nodes' metadata in a file; `Annotations` reads and
writes the metadata.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from enum import StrEnum
from functools import cache, cached_property

from onnx import ModelProto

from mxtools.files import VERSION
from mxtools.files.json_text import list_of_texts, texts_by_name
from mxtools.graph.index import Graph
from mxtools.scopes import keys
from mxtools.scopes.hierarchy import Hierarchy
from mxtools.scopes.places import Places
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

    __hash__ = str.__hash__  # Enum's own is a Python function, which would be called for every node


VACUOUS = "vacuous"
"""Why a scope has no node: its call returned what it was given."""
UNUSED = "unused"
"""Why a scope has no node: no output of the graph is computed with its call; the graph may be a part of the model."""
FOLDED = "folded"
"""Why a scope has no node: the results of its call are constants of the graph."""
MERGED_INTO = "merged: "
"""Begins the reason why a scope has no node, if a node of another scope does its work; that scope follows."""
WITHOUT = "without: "
"""Begins the reason why a scope is incomplete, if it lacks its first or last operation; that operation follows."""

INDIRECT = frozenset({Evidence.DATAFLOW, Evidence.ROOT})
"""The evidence of auxiliary operators."""

_Entry = tuple[str, str, str, str, str]
"""Scope, tag, evidence, merged and equal scopes of a node, as they are in its metadata."""

_Calls = dict[int, tuple[int, ...]]
"""Some calls for some nodes."""

_State = tuple[list[int | None], list[Evidence | None], _Calls, _Calls]
"""What `call`, `evidence`, `merged` and `equal_at` were when they were read or last saved."""

_TO_REMOVE: _Entry = ("", "", "", "", "")
"""Stands for the saved entry of a node whose annotations are removed, unless it gets new ones."""

_EVIDENCE_BY_WORD = {str(word): word for word in Evidence}


class Annotations:
    """The annotations of a model's nodes; `save` writes those that changed to the nodes.

    Attributes, by node number of `graph`: `call`, the number in `hierarchy` of the node's call, None if unknown;
    `evidence`, the reason for that; `merged`, the calls whose work the node does, for merged nodes only; `equal_at`,
    for nodes that the exporter computed once for several calls, the other calls.

    Others: `around`, for nodes whose call is not known, one in which it lies; `equal`, the calls without nodes whose
    work the nodes of an equal call do, each with that call (their scopes are also absent: each is merged into that of
    the equal call); `nodes_with_metadata`, the nodes that had any metadata when they were read, ours or another's;
    `incomplete`, the calls of which the graph lacks a result, with how many it has, `1 of 2`, or the beginning or end,
    with the operation that should be there, `without: relu of head.act`.
    """

    def __init__(self, model: ModelProto, graph: Graph, hierarchy: Hierarchy, blank: bool = False) -> None:
        """Read the nodes' annotations; scopes that the trace of `hierarchy` does not know are dropped.

        With `blank`, none are read, and `save` removes them from the nodes that get no new ones.
        """
        self.graph = graph
        self.hierarchy = hierarchy
        self.call: list[int | None] = [None] * len(graph.nodes)
        self.evidence: list[Evidence | None] = [None] * len(graph.nodes)
        self.nodes_with_metadata = [node for node, proto in enumerate(graph.nodes) if proto.metadata_props]
        self._model = model
        self._is_blank = blank
        self._saved: list[_Entry | None] = [None] * len(graph.nodes)
        self.around: dict[int, int] = {}
        self.merged: _Calls = {}
        self.equal_at: _Calls = {}
        entries: dict[int, dict[str, str]] = {}
        for node in self.nodes_with_metadata:
            props = keys.props(graph.nodes[node])
            if blank and not keys.NODE_KEYS.isdisjoint(props):
                self._saved[node] = _TO_REMOVE
            elif not blank and keys.SCOPE in props:
                self._saved[node] = _entry(props)
                entries[node] = props
        self.read(entries)
        self.equal = {} if blank else self._read_equal()
        self.incomplete = {} if blank else self._read_incomplete()
        self._unchanged = None if blank else self._state()

    @cached_property
    def places(self) -> Places:
        """The places of the nodes: the body or function in which each one is."""
        return Places(self.graph)

    @property
    def absent(self) -> dict[str, str]:
        """The scopes that a trace knew and no node has, each with its reason, as they are in the model's metadata."""
        return read_absent(self._model)

    def _read_equal(self) -> dict[int, int]:
        """Return the calls without nodes whose work equal calls do, and enter them into the hierarchy."""
        texts = keys.props(self._model)
        equal, callers = (texts_by_name(texts.get(key, "{}")) for key in (keys.EQUAL, keys.CALLERS))
        known = ((scope, self.hierarchy.find(other)) for scope, other in equal.items())
        return {self.hierarchy.enter_equal(scope, call, callers.get(scope)): call for scope, call in known if call}

    def _read_incomplete(self) -> dict[int, str]:
        """Return the calls of which the graph lacks a result."""
        texts = texts_by_name(keys.props(self._model).get(keys.INCOMPLETE, "{}"))
        return {call: text for scope, text in texts.items() if (call := self.hierarchy.find(scope)) is not None}

    def calls_with_work_of(self, calls: Iterable[int]) -> set[int]:
        """Return the calls whose nodes do the work of some calls: these themselves, or equal calls with nodes."""
        return {self.equal.get(call, call) for call in calls}

    def serving(self, node: int, call: int, reader: int) -> int:
        """Return the call that makes for a reader what a node in `call` makes for several equal calls.

        It is the one that is nearest to the reader in the call tree; if several are equally near, the outermost.
        """
        others = (*self._equal_to.get(call, ()), *self.equal_at.get(node, ()))
        if not others:
            return call
        depth, meet = self.hierarchy.depth, self.hierarchy.meet
        nearest: int = max((call, *others), key=lambda c: (depth[meet(c, reader)], -depth[c]))
        return nearest

    def all_serving(self, node: int, call: int, reader: int) -> set[int]:
        """Return the call that `serving` returns, and those of `equal_at` that are as near to the reader.

        If it contains the reader, it is the only one: it made the value for itself, so the others handed out nothing.
        """
        depth, meet = self.hierarchy.depth, self.hierarchy.meet
        serving = self.serving(node, call, reader)
        if self.hierarchy.within(reader, serving):
            return {serving}
        nearest = depth[meet(serving, reader)]
        return {serving, *(c for c in self.equal_at.get(node, ()) if depth[meet(c, reader)] == nearest)}

    @cached_property
    def _equal_to(self) -> dict[int, list[int]]:
        """The calls without nodes, by the equal call that has nodes."""
        found: dict[int, list[int]] = {}
        for other, call in self.equal.items():
            found.setdefault(call, []).append(other)
        return found

    def write_absent(self, absent: Mapping[str, str]) -> None:
        """Write the model's own metadata: the version of mxtools, the scopes that no node has, and their equals.

        With them go the scopes that only their submodules' nodes have, where these would be read in another way, and
        those of which the graph lacks a result.
        """
        scopes, parent = self.hierarchy.scopes, self.hierarchy.parent
        equal = {scopes[call]: scopes[other] for call, other in self.equal.items() if scopes[call] in absent}
        called_from = {scopes[call]: parent[call] for call in self.equal if scopes[call] in equal}
        callers = {s: scopes[at] for s, at in called_from.items() if at != self.hierarchy.around(s)}
        calls = self.hierarchy.hidden_around({call for call in self.call if call is not None})
        incomplete = {scopes[call]: text for call, text in self.incomplete.items()}
        lists = {
            keys.ABSENT: absent,
            keys.EQUAL: equal,
            keys.CALLERS: callers,
            keys.CALLS: calls,
            keys.INCOMPLETE: incomplete,
        }
        values = {key: json.dumps(found, ensure_ascii=False) for key, found in lists.items() if found}
        values = {keys.VERSION: VERSION} | values
        keys.replace_props(self._model, keys.MODEL_KEYS, values)

    def read(self, entries: Mapping[int, Mapping[str, str]]) -> None:
        """Annotate nodes from metadata, given by node number; entries with an unknown scope are left out.

        An unknown word of evidence becomes `previous`: the node had its scope already, for whatever reason.
        """
        merged, equal = dict[int, str](), dict[int, str]()
        calls = texts_by_name(keys.props(self._model).get(keys.CALLS, "{}"))
        expected = {tag: scope for scope, tag in calls.items()}
        self.hierarchy.expect(expected | {props.get(keys.TAG, ""): props[keys.SCOPE] for props in entries.values()})
        for node, props in entries.items():
            call = self._find(props[keys.SCOPE], props.get(keys.TAG))
            if call is not None:
                self.set(node, call, _EVIDENCE_BY_WORD.get(props.get(keys.EVIDENCE, ""), Evidence.PREVIOUS))
                if several := props.get(keys.MERGED):
                    merged[node] = several
                if several := props.get(keys.EQUAL):
                    equal[node] = several
        for found, texts in ((self.merged, merged), (self.equal_at, equal)):
            found.update({node: self._calls(text) for node, text in texts.items()})

    def calls_done(self, node: int) -> tuple[int, ...]:
        """Return the calls whose work a node does: those merged into it, else its own if that is known."""
        call = self.call[node]
        return self.merged.get(node, () if call is None else (call,))

    def merged_away(self) -> set[int]:
        """Return the calls that end inside a merged node of another call, so no value belongs to them alone."""
        within = self.hierarchy.within
        return {
            merged
            for node in self.merged
            for merged in self.ending_in(node)
            if (call := self.call[node]) is None or not within(call, merged)
        }

    def ending_in(self, node: int) -> tuple[int, ...]:
        """Return the calls that end inside a merged node, without those that also make what they return themselves.

        One transposition in the place of two in a row ends a call that has a transposition of the same value, too.
        """
        graph, call, within = self.graph, self.call, self.hierarchy.within
        calls = self.merged.get(node, ())
        if not graph.operators[node].is_named("Transpose") or not graph.reads[node]:
            return calls
        own = [r for r in graph.readers[graph.reads[node][0]] if r != node and graph.operators[r].is_named("Transpose")]
        return tuple(c for c in calls if not any((at := call[r]) is not None and within(at, c) for r in own))

    def set(self, node: int, call: int, evidence: Evidence) -> None:
        """Annotate a node with its call and the evidence for it."""
        self.call[node] = call
        self.evidence[node] = evidence

    def set_all(self, nodes: Iterable[int], call: int, evidence: Evidence) -> None:
        """Annotate several nodes with one call and the evidence for it."""
        for node in nodes:
            self.call[node] = call
            self.evidence[node] = evidence

    def is_read_outside(self, value: int, call: int) -> bool:
        """Return whether a node outside of a call reads a value, or the value is an output of the graph."""
        readers = (self.call[node] for node in self.graph.readers[value])
        is_read = any(reader is None or not self.hierarchy.within(reader, call) for reader in readers)
        return is_read or value in self.graph.outputs

    def counts(self) -> dict[str, int]:
        """Return the number of nodes by evidence, the most direct first; nodes without evidence are not counted."""
        counted = Counter(self.evidence)
        return {str(word): counted[word] for word in Evidence if counted[word]}

    def save(self) -> bool:
        """Write the annotations to the nodes' metadata, and raise the IR version of a file that is too old for these.

        Return whether they had changed. Nothing is written if nothing changed since they were read. So a file keeps
        entries that we would write in another way, such as a scope without a tag.

        A model has many nodes but few different annotations, and protobuf's Python objects are slow. So the bytes of
        each (call, evidence, merged and equal calls) are made once, and one call of `MergeFromString` appends them to a
        node, for example to each of 10,000 nodes of `encoder.layer.0`. Appending is also why old entries are removed
        first: otherwise ours would be there twice. A node whose entry equals the saved one is not touched.
        """
        if self._state() == self._unchanged:
            return False
        self._unchanged = self._state()
        merged, equal, encoded = self.merged, self.equal_at, cache(keys.encoded)
        written: dict[tuple[int, Evidence, tuple[int, ...], tuple[int, ...]], tuple[_Entry, bytes]] = {}
        states = zip(self.graph.nodes, self.call, self.evidence, self._saved, strict=True)
        for node, (proto, call, evidence, saved) in enumerate(states):
            if call is None or evidence is None:
                if saved is _TO_REMOVE:
                    self._saved[node] = None
                    keys.replace_props(proto, keys.NODE_KEYS, {})
                continue
            key = (call, evidence, merged.get(node, ()), equal.get(node, ()))
            if key not in written:
                entry = self._entry(*key)
                data = b"".join([encoded(*pair) for pair in zip(keys.TAG_KEYS, entry, strict=True) if pair[1]])
                written[key] = entry, data
            entry, data = written[key]
            if saved is not None:
                if saved == entry:
                    continue
                keys.replace_props(proto, keys.NODE_KEYS, {})  # merging appends, and would keep the old entries
            self._saved[node] = entry
            proto.MergeFromString(data)
        if any(call is not None for call in self.call):
            self._model.ir_version = max(self._model.ir_version, keys.FIRST_IR_WITH_NODE_METADATA)
        return True

    def _state(self) -> _State:
        return list(self.call), list(self.evidence), dict(self.merged), dict(self.equal_at)

    def _entry(self, call: int, word: Evidence, *several: tuple[int, ...]) -> _Entry:
        """Return the entry of a node with this call, evidence, merged calls and equal calls."""
        scopes = self.hierarchy.scopes
        merged, equal = (json.dumps([scopes[c] for c in calls]) if calls else "" for calls in several)
        return (scopes[call], self.hierarchy.tags[call], word, merged, equal)

    def _find(self, scope: str | None, tag: str | None) -> int | None:
        """Return the call of a scope in a file, None if there is none; a hierarchy without a trace adopts it."""
        if not scope or scope.count(".") >= DEEPEST:
            return None
        call = self.hierarchy.find(scope)
        if not call and not self.hierarchy.is_traced:  # also for the root, 0: its tag says its class
            call = self.hierarchy.adopt(scope, tag or "")
        return call

    def _calls(self, listed: str) -> tuple[int, ...]:
        """Return the calls of a JSON list of scopes."""
        calls = [self._find(scope, None) for scope in list_of_texts(listed)]
        return tuple(call for call in calls if call is not None)


def _entry(props: dict[str, str]) -> _Entry:
    get = props.get
    return (props[keys.SCOPE], get(keys.TAG, ""), get(keys.EVIDENCE, ""), get(keys.MERGED, ""), get(keys.EQUAL, ""))


def read_absent(model: ModelProto) -> dict[str, str]:
    """Return the scopes that a trace knew and no node has, each with its reason; empty if the file lists none."""
    return texts_by_name(keys.props(model).get(keys.ABSENT, "{}"))
