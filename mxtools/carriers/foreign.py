"""Tags under the keys of node metadata that others read: Model Explorer's `namespace`, ONNX Runtime's `layer_ann`."""

from __future__ import annotations

from onnx import NodeProto

from mxtools import keys
from mxtools.hierarchy import Hierarchy
from mxtools.tags import class_of


def namespaces(hierarchy: Hierarchy) -> list[str]:
    """Give for each call its levels below the root: `encoder: BertEncoder/layer.0: BertLayer`."""
    found = [""]
    for call in range(1, len(hierarchy)):
        parent = hierarchy.parent[call]
        found.append(
            "/".join(
                [*([found[parent]] if parent else []), f"{hierarchy.local(call)}: {class_of(hierarchy.tags[call])}"]
            )
        )
    return found


def write_foreign(node: NodeProto, key: str, value: str) -> None:
    """Write an entry under a key of somebody else's."""
    if keys.props(node).get(key) != value:
        keys.replace_props(node, frozenset({key}), {key: value})
