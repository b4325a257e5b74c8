"""Evidence from the metadata that torch.export writes on nodes (`pkg.torch.onnx.name_scopes`).

If a module has several names in a model, torch.export names what is called through slices of its containers by these:

    layers.slice(1, None, None).0       layers.1: a ModuleList counts the modules of a slice from 0 on
    seq.slice(1, None, None).1          seq.1: a Sequential keeps their names
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection
from functools import partial

from onnx import NodeProto

from mxtools.evidence.between_values import calls_between
from mxtools.evidence.calls.equal_work import without_repeated
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
    plain = _without_slices({path for paths in found.values() for path in paths if ".slice(" in path})
    return {node: tuple(plain.get(path, path) for path in paths) for node, paths in found.items() if paths}


_SLICE = re.compile(r"(\.slice\((None|-?\d{1,9}), (?:None|-?\d{1,9}), None\))(?:\.(\d{1,9})(?=\.|$))?")


def _without_slices(paths: Collection[str]) -> dict[str, str]:
    """Return the paths of modules by those that lead through slices.

    A slice that is called itself is of a Sequential. If it is not, and the number of a module in it is below the begin
    of the slice, it is of a ModuleList. One that begins at the end of a list stays: it takes the length of the list.
    """
    slices = [(path, found) for path in paths for found in _SLICE.finditer(path)]
    lowest: dict[str, int] = {}
    for path, found in slices:
        if found[3]:
            container, number = path[: found.end(1)], int(found[3])
            lowest[container] = min(number, lowest.get(container, number))
    plain = {path: path for path in paths}
    for path, found in reversed(slices):  # the last slice in a path first, so the places before it stay
        container, key = path[: found.end(1)], found[3] or ""
        begin = 0 if found[2] == "None" else int(found[2])
        if key and container not in paths and lowest[container] < abs(begin):
            if begin < 0:
                continue
            key = str(int(key) + begin)
        plain[path] = plain[path][: found.start()] + (key and f".{key}") + plain[path][found.end() :]
    return plain


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
        pairs = ((calls, labelled[paths]) for paths, calls in found.items())
        chosen = without_repeated(graph, pairs, lambda: index.repeated)
        assign(annotations, chosen, Evidence.METADATA, index.origins, partial(calls_between, model))
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
