"""Tags under the keys of node metadata that others read: Model Explorer's `namespace`, ONNX Runtime's `layer_ann`."""

from __future__ import annotations

from mxtools.scopes.hierarchy import Hierarchy
from mxtools.scopes.tags import class_of


def namespaces_of(hierarchy: Hierarchy) -> list[str]:
    """Return the namespace of each call, its levels below the root: `encoder: BertEncoder/layer.0: BertLayer`."""
    namespaces = [""]
    for call in range(1, len(hierarchy)):
        parent = hierarchy.parent[call]
        level = f"{hierarchy.local(call)}: {class_of(hierarchy.tags[call])}"
        namespaces.append(f"{namespaces[parent]}/{level}" if parent else level)
    return namespaces
