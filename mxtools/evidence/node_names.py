"""Evidence from node names as TorchScript writes them (`/encoder/layer.0/attention/MatMul`)."""

from __future__ import annotations

from collections import defaultdict

from mxtools.evidence.calls.index import Candidates, call_index, name_components, require_same_model, scope_steps
from mxtools.evidence.calls.placement import assign
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes.annotations import Evidence


def annotate_by_names(model: WorkingModel) -> None:
    """Annotate the nodes whose names begin with `/`; nodes that have metadata evidence keep it."""
    graph, annotations = model.graph, model.annotations
    hierarchy = annotations.hierarchy
    named: dict[str, list[int]] = defaultdict(list)
    for node, (proto, call) in enumerate(zip(graph.nodes, annotations.call, strict=True)):
        if call is None and (name := proto.name).startswith("/"):
            named[name.rpartition("/")[0]].append(node)
    index = model.once(call_index)
    if index:
        found = {name: known for name in named if (known := index.by_name(name))[0]}
        require_same_model(index.sidecar, named, found, lambda name: name[1:])
        by_module: dict[tuple[Candidates, str], list[int]] = defaultdict(list)
        for name, known in found.items():
            by_module[known] += named[name]
        assign(
            annotations,
            ((calls, nodes) for (calls, _), nodes in by_module.items()),
            Evidence.NAME,
            index.origins,
            numbered=True,
        )
        return
    for name, nodes in named.items():
        annotations.set_all(nodes, hierarchy.add(scope_steps(name_components(name))), Evidence.NAME)
