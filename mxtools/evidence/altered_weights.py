"""Weights into which a tool computed something, such as a BatchNorm behind a convolution."""

from __future__ import annotations

from mxtools.evidence.calls.index import call_index
from mxtools.graph.fingerprints import fingerprint, same_fingerprint
from mxtools.pipeline.working_model import WorkingModel

ROUNDED = 1e-2
"""How far half precision moves the fingerprint of a weight, at most, relative to its largest element."""


_OF_EXPORTER = "onnx::"
"""How the names begin that TorchScript gives to weights that it changed itself, such as transposed ones."""


def is_made_by_tool(model: WorkingModel, value: int) -> bool:
    """Return whether a value is a weight with altered elements, or with a name that neither trace nor exporter gave."""
    index, tensor = model.once(call_index), model.graph.initializers.get(value)
    if not index or tensor is None or value not in model.graph.weighted or tensor.name.startswith(_OF_EXPORTER):
        return False
    return tensor.name not in index.weights or is_altered(model, value)


def is_altered(model: WorkingModel, value: int) -> bool:
    """Return whether a value with the name of a traced weight has other elements than that, up to rounding.

    The bias of a convolution has, if a tool folded a BatchNorm into it, or the addition of a constant. Without a trace,
    or if the trace has no fingerprint of the weight, nothing shows it.
    """
    index, tensor = model.once(call_index), model.graph.initializers.get(value)
    if not index or tensor is None or tensor.name not in index.weights:
        return False
    traced = index.weights[tensor.name][1].fingerprint
    own = fingerprint(model.weights.array(tensor)) if traced else None
    return own is not None and traced is not None and not same_fingerprint(own, traced, ROUNDED)
