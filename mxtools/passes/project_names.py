"""The pass `project-names`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onnx import ModelProto

from mxtools.annotations import Evidence
from mxtools.context import Context, Pass
from mxtools.projection.calls import assign, check_model, join_components


@dataclass(frozen=True)
class ProjectNames(Pass):
    """Scopes from node names as TorchScript writes them (`/encoder/layer.0/attention/MatMul`)."""

    name: ClassVar[str] = "project-names"
    annotates: ClassVar[bool] = True

    def apply(self, model: ModelProto, context: Context) -> None:
        """Annotate the nodes whose names begin with `/`; nodes that have metadata evidence keep it."""
        graph, annotations = context.graph(model), context.annotations(model)
        hierarchy = annotations.hierarchy
        said = {
            node: tuple(proto.name.split("/")[1:-1])
            for node, proto in enumerate(graph.nodes)
            if proto.name.startswith("/") and annotations.call[node] is None
        }
        index = context.calls(model)
        if index:
            found = {node: calls for node, names in said.items() if (calls := index.by_components(names))}
            check_model(index.sidecar, said, found, lambda node: "/".join(said[node]))
            chosen = assign(graph, hierarchy, found)
        else:
            chosen = {node: hierarchy.add(join_components(names)) for node, names in said.items()}
        for node, call in chosen.items():
            annotations.set(node, call, Evidence.NAME)
