"""Tags under metadata keys that other tools read: Model Explorer's `namespace`, ONNX Runtime's `layer_ann`."""

from __future__ import annotations

from collections.abc import Iterable

from mxtools.scopes.hierarchy import Hierarchy
from mxtools.scopes.tags import class_of


def namespaces_of(hierarchy: Hierarchy) -> list[str]:
    """Return the namespace of each call."""
    below = range(1, len(hierarchy))
    return namespaces((hierarchy.parent[c], hierarchy.local(c), class_of(hierarchy.tags[c])) for c in below)


def namespaces(calls: Iterable[tuple[int, str, str]]) -> list[str]:
    """Return the namespace of the root and of each call below it: `encoder: BertEncoder/layer.0: BertLayer`.

    Calls are given as (number of the parent, attribute name, class name), parents first, from number 1 on.
    """
    found = [""]
    for parent, name, class_name in calls:
        level = f"{name}: {class_name}"
        found.append(f"{found[parent]}/{level}" if parent else level)
    return found
