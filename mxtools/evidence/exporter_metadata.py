"""Evidence from the metadata that torch.export writes on nodes (`pkg.torch.onnx.name_scopes`)."""

from __future__ import annotations

import ast
from collections import defaultdict

from onnx import NodeProto

from mxtools.evidence.calls.index import call_index, require_same_model
from mxtools.evidence.calls.placement import assign
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes import keys
from mxtools.scopes.annotations import Evidence
from mxtools.scopes.hierarchy import Hierarchy
from mxtools.scopes.scope import ROOT, escape, local_name


def annotate_by_metadata(model: WorkingModel) -> None:
    """Annotate the nodes on which the path of a module is written; a path that the trace does not know is ignored."""
    graph, annotations = model.graph, model.annotations
    hierarchy = annotations.hierarchy
    labelled: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for node in annotations.nodes_with_metadata:
        if paths := paths_on(graph.nodes[node]):
            labelled[paths].append(node)
    index = model.once(call_index)
    if index:
        found = {paths: calls for paths in labelled if (calls := index.by_paths(paths))}
        require_same_model(index.sidecar, labelled, found, lambda paths: paths[-1])
        assign(
            annotations, ((calls, labelled[paths]) for paths, calls in found.items()), Evidence.METADATA, index.origins
        )
        return
    for node, paths in sorted((node, paths) for paths, nodes in labelled.items() for node in nodes):
        annotations.set(node, _enter(hierarchy, paths, graph.nodes[node]), Evidence.METADATA)


def paths_on(node: NodeProto) -> tuple[str, ...]:
    """Return the module paths that are written on a node, outermost first; the last item, its FX node, is left out.

    The class of a module is written with it. What has its own name for a class is a note of the exporter's and no
    module: of sizes of inputs it says `_empty_nn_module_stack_from_metadata_hook`, twice.
    """
    for entry in node.metadata_props:
        if entry.key == keys.TORCH_NAME_SCOPES:
            paths = _listed(entry.value)[:-1]
            is_note = paths[:1] not in ([], [""]) and paths[:1] == _classes(node)[:1]  # modules begin with the root, ""
            return () if is_note else tuple(path or ROOT for path in paths)
    return ()


def _classes(node: NodeProto) -> list[str]:
    """Return the classes that are written on a node, one for each module path, and that of its FX node."""
    return _listed(keys.props(node).get(keys.TORCH_CLASS_HIERARCHY, ""))


def _listed(text: str) -> list[str]:
    """Return the list of strings whose `repr` a text is; an empty list where it is something else."""
    if "\\" not in text and '"' not in text and text[:2] == "['" and text[-2:] == "']":
        return text[2:-2].split("', '")
    try:
        items = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return []
    return [str(item) for item in items] if isinstance(items, list) else []


def _enter(hierarchy: Hierarchy, paths: tuple[str, ...], node: NodeProto) -> int:
    """Enter the scope that is written on a node into an open hierarchy and return its number."""
    classes = _classes(node)
    names = [c.rpartition(".")[2] for c in classes[: len(paths)]] if len(classes) > len(paths) else [""] * len(paths)
    steps, before = [], ROOT
    for path, name in zip(paths, names, strict=True):
        if path == ROOT:
            hierarchy.name_root(name)
            continue
        steps.append((escape(local_name(path, before)), name))
        before = path
    return hierarchy.add(steps)
