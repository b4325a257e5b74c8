"""What the values between nodes take in memory: as ONNX Runtime's arena says, beside what shapes say."""

from __future__ import annotations

import numpy as np

from mxtools.costs.activations import peak
from mxtools.costs.dimensions import sizes_in
from mxtools.pipeline.working_model import WorkingModel
from mxtools.profile.report import Memory
from mxtools.runtime.arena import peak_in_arena


def memory_of(model: WorkingModel) -> Memory:
    """Run a model on its inputs with nothing optimised; InputError if it does not run, or the arena cannot be asked."""
    given, graph = model.inputs(), model.graph
    arena = peak_in_arena(model.proto, model.weights, given)
    types = {info.name: info.type for info in model.proto.graph.input}
    size = model.costs(sizes_in(types, {name: np.shape(value) for name, value in given.items()})).size
    found = peak(graph, graph.main, size, graph.inputs, graph.outputs)
    held = sum(np.asarray(value).nbytes for value in given.values())
    return Memory(arena=arena, computed=None if found.unsized else found.bytes - held)
