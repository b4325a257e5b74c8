"""What the values between nodes take in memory: as ONNX Runtime's arena says, beside what shapes say."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mxtools.costs.activations import peak
from mxtools.pipeline.working_model import WorkingModel
from mxtools.profile.report import Memory
from mxtools.runtime.arena import peak_in_arena
from mxtools.runtime.session_values import Value


def memory_of(model: WorkingModel) -> Memory:
    """Run a model on its inputs with nothing optimised; InputError if it does not run, or the arena cannot be asked."""
    given, graph = model.inputs(), model.graph
    arena = peak_in_arena(model.proto, model.weights, given)
    size = model.costs(_sizes(model, given)).size
    found = peak(graph, graph.main, size, graph.inputs, graph.outputs)
    held = sum(np.asarray(value).nbytes for value in given.values())
    return Memory(arena=arena, computed=None if found.unsized else found.bytes - held)


def _sizes(model: WorkingModel, given: Mapping[str, Value]) -> dict[str, int]:
    """Return the sizes that symbolic dimensions have in inputs."""
    found: dict[str, int] = {}
    for info in model.proto.graph.input:
        dims = info.type.tensor_type.shape.dim
        for dim, size in zip(dims, np.shape(given.get(info.name, 0)), strict=False):
            if dim.dim_param:
                found.setdefault(dim.dim_param, size)
    return found
