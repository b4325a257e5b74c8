"""The pass `project-names`."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import ClassVar

from onnx import ModelProto

from mxtools.evidence.calls import assign, check_model, components, join_components
from mxtools.pipeline.context import Context, Pass
from mxtools.scopes.annotations import Evidence


@dataclass(frozen=True)
class ProjectNames(Pass):
    """Scopes from node names as TorchScript writes them (`/encoder/layer.0/attention/MatMul`)."""

    name: ClassVar[str] = "project-names"
    annotates: ClassVar[bool] = True

    def apply(self, model: ModelProto, context: Context) -> None:
        """Annotate the nodes whose names begin with `/`; nodes that have metadata evidence keep it."""
        graph, annotations = context.graph(model), context.annotations(model)
        hierarchy = annotations.hierarchy
        said: dict[str, list[int]] = defaultdict(list)
        for node, (proto, call) in enumerate(zip(graph.nodes, annotations.call, strict=True)):
            if call is None and (name := proto.name).startswith("/"):
                said[name.rpartition("/")[0]].append(node)
        index = context.calls(model)
        if index:
            found = {name: calls for name in said if (calls := index.by_name(name))}
            check_model(index.sidecar, said, found, lambda name: name[1:])
            assign(annotations, ((calls, said[name]) for name, calls in found.items()), Evidence.NAME)
            return
        for name, nodes in said.items():
            annotations.set_all(nodes, hierarchy.add(join_components(components(name))), Evidence.NAME)
