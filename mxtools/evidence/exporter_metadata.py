"""Evidence from the metadata that torch.export writes on nodes (`pkg.torch.onnx.name_scopes`)."""

from __future__ import annotations

from collections import defaultdict

from onnx import NodeProto

from mxtools.evidence.calls.index import call_index, require_same_model
from mxtools.evidence.calls.placement import assign
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes.annotations import Evidence
from mxtools.scopes.hierarchy import Hierarchy
from mxtools.scopes.labels import classes_on, paths_on
from mxtools.scopes.scope import ROOT, escape, local_name


def exporter_paths(model: WorkingModel) -> dict[int, tuple[str, ...]]:
    """Return the module paths that torch.export wrote on nodes, by node, from the outermost module to the innermost."""
    found = {node: paths_on(model.graph.nodes[node]) for node in model.annotations.nodes_with_metadata}
    return {node: paths for node, paths in found.items() if paths}


def annotate_by_metadata(model: WorkingModel) -> None:
    """Annotate the nodes that bear the path of a module; a path that the trace does not know is ignored."""
    graph, annotations = model.graph, model.annotations
    hierarchy = annotations.hierarchy
    labelled: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for node, paths in model.once(exporter_paths).items():
        labelled[paths].append(node)
    index = model.once(call_index)
    if index:
        found = {paths: calls for paths in labelled if (calls := index.by_paths(paths))}
        require_same_model(model.name, index.sidecar, labelled, found, lambda paths: paths[-1])
        assign(
            annotations, ((calls, labelled[paths]) for paths, calls in found.items()), Evidence.METADATA, index.origins
        )
        return
    for node, paths in sorted((node, paths) for paths, nodes in labelled.items() for node in nodes):
        annotations.set(node, _enter(hierarchy, paths, graph.nodes[node]), Evidence.METADATA)


def _enter(hierarchy: Hierarchy, paths: tuple[str, ...], node: NodeProto) -> int:
    """Enter the scope that is written on a node into an open hierarchy and return its number."""
    classes = classes_on(node)
    names = [c.rpartition(".")[2] for c in classes[: len(paths)]] if len(classes) > len(paths) else [""] * len(paths)
    steps, before = [], ROOT
    for path, name in zip(paths, names, strict=True):
        if path == ROOT:
            hierarchy.name_root(name)
            continue
        steps.append((escape(local_name(path, before)), name))
        before = path
    return hierarchy.add(steps)
