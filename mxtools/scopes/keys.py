"""The keys that mxtools reads and writes in `metadata_props`; the one place that knows the names."""

from __future__ import annotations

from collections.abc import Mapping

from onnx import ModelProto, NodeProto, ValueInfoProto

Holder = NodeProto | ModelProto | ValueInfoProto
"""What has metadata."""

SCOPE = "pkg.mxtools.scope"
TAG = "pkg.mxtools.tag"
EVIDENCE = "pkg.mxtools.evidence"
MERGED = "pkg.mxtools.merged"
EQUAL = "pkg.mxtools.equal"
"""On a node: the other scopes that did the same work. On a model: the scopes without nodes, each with its equal."""
TAG_KEYS = (SCOPE, TAG, EVIDENCE, MERGED, EQUAL)
NODE_KEYS = frozenset(TAG_KEYS)

FOLDED = "pkg.mxtools.folded"
"""On a node that calls a function made by folding: names and tags of the nodes that the call stands for."""

VERSION = "pkg.mxtools.version"
ABSENT = "pkg.mxtools.absent"
CALLERS = "pkg.mxtools.callers"
"""Who called the scopes without nodes that have an equal, where the scope does not say it: a module of another one."""
CALLS = "pkg.mxtools.calls"
"""The scopes without nodes of their own, with their tags, that the scopes and tags of their submodules do not show."""
INCOMPLETE = "pkg.mxtools.incomplete"
"""The scopes that lack something in the graph: results, `1 of 2`, or an operation at an end, `without: relu of act`."""
MODEL_KEYS = frozenset({VERSION, ABSENT, EQUAL, CALLERS, CALLS, INCOMPLETE})

CARRIERS = "pkg.mxtools.carriers"
TRACE = "pkg.mxtools.trace"
SCOPES = "pkg.mxtools.scopes"
CARRIER_KEYS = frozenset({CARRIERS, TRACE, SCOPES})

TORCH_NAME_SCOPES = "pkg.torch.onnx.name_scopes"
TORCH_CLASS_HIERARCHY = "pkg.torch.onnx.class_hierarchy"

CLASS_PATH = "winml.hierarchy.tag"
"""winml-cli writes the classes of the modules around a node here."""

NAMESPACE = "namespace"
"""Model Explorer groups nodes by this key."""
LAYER_ANNOTATION = "layer_ann"
"""ONNX Runtime assigns nodes to devices by this key."""

FIRST_IR_WITH_NODE_METADATA = 10


def props(proto: Holder) -> dict[str, str]:
    """Return metadata as a dictionary; if a key occurs twice, the last value counts."""
    return {entry.key: entry.value for entry in proto.metadata_props}


def encoded(key: str, value: str) -> bytes:
    """Return the bytes of a node with one entry of metadata and nothing else.

    Such bytes can be concatenated, and `node.MergeFromString` then adds all entries, faster than one by one.
    """
    node = NodeProto()
    node.metadata_props.add(key=key, value=value)
    return bytes(node.SerializeToString())


def replace_props(proto: Holder, keys: frozenset[str], values: Mapping[str, str]) -> None:
    """Remove the entries of `keys` and append `values`; foreign entries stay as they are, in their order."""
    entries = proto.metadata_props
    for index in range(len(entries) - 1, -1, -1):
        if entries[index].key in keys:
            del entries[index]
    for key, value in values.items():
        entries.add(key=key, value=value)


def set_prop(proto: Holder, key: str, value: str | None) -> None:
    """Set a key to one value, as the last entry, or remove it (None); other entries stay, in their order."""
    replace_props(proto, frozenset({key}), {} if value is None else {key: value})
