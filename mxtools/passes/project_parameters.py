"""The pass `project-parameters`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onnx import ModelProto

from mxtools.annotations import Evidence
from mxtools.context import Context, Pass
from mxtools.errors import InputError
from mxtools.projection.calls import assign
from mxtools.sidecar import full_name


@dataclass(frozen=True)
class ProjectParameters(Pass):
    """Scopes of nodes that use a module's parameter or buffer, known by its name (`encoder.layer.0.dense.weight`)."""

    name: ClassVar[str] = "project-parameters"
    annotates: ClassVar[bool] = True

    def apply(self, model: ModelProto, context: Context) -> None:
        """Annotate nodes without evidence that read an initializer named as a weight of a traced module.

        Without a trace there is nothing to tell weights from other constants, and nothing is done. A weight that
        several modules own tells them apart no more than a repeated call is: by order.
        """
        graph, annotations = context.graph(model), context.annotations(model)
        hierarchy = annotations.hierarchy
        index = context.calls(model)
        if not index:
            return
        owner = {
            full_name(module, weight): (module.path, weight)
            for module in index.sidecar.modules
            for weight in module.weights
        }
        found = {}
        sparse = ((value, tensor.values.name, tensor.dims) for value, tensor in graph.sparse.items())
        for value, name, dims in (*((v, t.name, t.dims) for v, t in graph.initializers.items()), *sparse):
            if name not in owner:
                continue
            module, weight = owner[name]
            if sorted(dims) != sorted(weight.shape):
                raise InputError(
                    f"the sidecar is of another model: its {name!r} is of shape {list(weight.shape)}, here "
                    f"{list(dims)}: trace the model that was exported"
                )
            calls = index.by_paths((module,))
            for node in graph.readers[value]:
                if calls and annotations.call[node] is None:
                    found[node] = calls
        for node, call in assign(graph, hierarchy, found).items():
            annotations.set(node, call, Evidence.PARAMETER)
