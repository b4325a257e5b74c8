"""Evidence from paths of classes that other tools write on nodes, such as winml-cli's `winml.hierarchy.tag`.

    /BertModel/BertEncoder/BertLayer.0/BertAttention        an index follows the class if the module is in a list

Such a path has no attribute names and mostly leaves out modules of torch.nn, so their nodes have the path of the
caller. It therefore counts only for nodes without other evidence, and only if exactly one call has these classes, in
this order and with the last one at its end. A tool that knows nothing of a node writes the path of the root alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes import keys
from mxtools.scopes.annotations import Evidence
from mxtools.scopes.hierarchy import ROOT_CALL, Hierarchy
from mxtools.scopes.scope import escape
from mxtools.scopes.tags import class_of

Levels = tuple[str, ...]


def annotate_by_class_paths(model: WorkingModel) -> None:
    """Annotate nodes without evidence that bear a path of classes, if exactly one call has this path.

    If no module is known at all, the classes serve as attribute names too.
    """
    annotations = model.annotations
    labelled: dict[Levels, list[int]] = defaultdict(list)
    for node in annotations.nodes_with_metadata:
        if annotations.call[node] is None and (path := keys.props(model.graph.nodes[node]).get(keys.CLASS_PATH)):
            labelled[tuple(level for level in path.split("/") if level)].append(node)
    hierarchy = annotations.hierarchy
    if not hierarchy.is_traced and len(hierarchy) == 1:
        for levels, nodes in sorted(labelled.items()):
            if levels[1:]:
                annotations.set_all(nodes, _entered(hierarchy, levels), Evidence.METADATA)
        return
    paths = _ending_in(hierarchy)
    for levels, nodes in labelled.items():
        found = _only(paths.get(levels[-1], {}), levels) if levels[1:] else None
        if found is not None:
            annotations.set_all(nodes, found, Evidence.METADATA)


def _ending_in(hierarchy: Hierarchy) -> dict[str, dict[int, Levels]]:
    """Return the paths of all calls except the root, by their last levels."""
    paths: list[Levels] = [(class_of(hierarchy.tags[ROOT_CALL]),)]
    found: dict[str, dict[int, Levels]] = defaultdict(dict)
    for call in range(1, len(hierarchy)):
        name = hierarchy.local(call).partition("@")[0].rpartition(".")[2]
        level = class_of(hierarchy.tags[call]) + (f".{name}" if name.isdecimal() else "")
        paths.append((*paths[hierarchy.parent[call]], level))
        found[level][call] = paths[call]
    return found


def _only(paths: dict[int, Levels], levels: Levels) -> int | None:
    """Return the one call that has exactly this path, else the one whose path contains all its levels in order."""
    equal = [call for call, path in paths.items() if path == levels]
    fitting = equal or [call for call, path in paths.items() if _leads_through(path, levels)]
    return fitting[0] if len(fitting) == 1 else None


def _leads_through(path: Sequence[str], levels: Sequence[str]) -> bool:
    rest = iter(path)
    return all(level in rest for level in levels)


def _entered(hierarchy: Hierarchy, levels: Levels) -> int:
    """Enter a path of classes into an open hierarchy; return the number of its end."""
    hierarchy.name_root(levels[0])
    return hierarchy.add((".".join(map(escape, level.split("."))), level.partition(".")[0]) for level in levels[1:])
