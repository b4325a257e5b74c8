"""The keys that mxtools reads and writes in `metadata_props`; the one place that knows the names."""

from __future__ import annotations

from collections.abc import Mapping

from onnx import ModelProto, NodeProto

SCOPE = "pkg.mxtools.scope"
TAG = "pkg.mxtools.tag"
EVIDENCE = "pkg.mxtools.evidence"
MERGED = "pkg.mxtools.merged"
TAG_KEYS = (SCOPE, TAG, EVIDENCE, MERGED)
NODE_KEYS = frozenset(TAG_KEYS)

VERSION = "pkg.mxtools.version"
ABSENT = "pkg.mxtools.absent"
MODEL_KEYS = frozenset({VERSION, ABSENT})

CARRIERS = "pkg.mxtools.carriers"
TRACE = "pkg.mxtools.trace"
SCOPES = "pkg.mxtools.scopes"
CARRIER_KEYS = frozenset({CARRIERS, TRACE, SCOPES})

TORCH_NAME_SCOPES = "pkg.torch.onnx.name_scopes"
TORCH_CLASS_HIERARCHY = "pkg.torch.onnx.class_hierarchy"

NAMESPACE = "namespace"
"""What Model Explorer reads."""
LAYER_ANNOTATION = "layer_ann"
"""What ONNX Runtime assigns devices by."""

FIRST_IR_WITH_NODE_METADATA = 10


def props(proto: NodeProto | ModelProto) -> dict[str, str]:
    """Give the metadata of a node or a model as a dictionary; of a key that stands there twice, the last value."""
    return {entry.key: entry.value for entry in proto.metadata_props}


def encoded(key: str, value: str) -> bytes:
    """Give a node with one entry of metadata as bytes: joined with others and merged into a node, it adds them."""
    node = NodeProto()
    node.metadata_props.add(key=key, value=value)
    return bytes(node.SerializeToString())


def replace_props(proto: NodeProto | ModelProto, keys: frozenset[str], values: Mapping[str, str]) -> None:
    """Remove the entries of `keys` and append `values`; foreign entries stay as they are, in their order."""
    entries = proto.metadata_props
    for index in range(len(entries) - 1, -1, -1):
        if entries[index].key in keys:
            del entries[index]
    for key, value in values.items():
        entries.add(key=key, value=value)


def set_prop(proto: NodeProto | ModelProto, key: str, value: str | None) -> None:
    """Give a key one value, as the last entry, or none; the other entries stay as they are, in their order."""
    replace_props(proto, frozenset({key}), {} if value is None else {key: value})
