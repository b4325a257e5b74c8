"""Weights into which a tool computed something, such as a BatchNorm behind a convolution."""

from __future__ import annotations

from mxtools.evidence.calls.index import call_index
from mxtools.graph.fingerprints import fingerprint, same_fingerprint
from mxtools.graph.index import Graph
from mxtools.graph.shapes import Array
from mxtools.matching.surviving_names import name_before
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
    index, name = model.once(call_index), weight_name(model.graph, value)
    if not index or name not in index.weights:
        return False
    traced = index.weights[name][1].fingerprint
    elements = _elements(model, value) if traced else None
    own = None if elements is None else fingerprint(elements)
    return own is not None and traced is not None and not same_fingerprint(own, traced, ROUNDED)


def weight_name(graph: Graph, value: int) -> str:
    """Return the name of a stored value; for one that a node turns back into floats, the name before the quantiser."""
    stored = graph.before_floats(value)
    return graph.names[value] if stored == value else name_before(graph.names[stored])


def _elements(model: WorkingModel, value: int) -> Array | None:
    """Return the elements of a stored value, or of one that is quantised with one scale for all or for each channel."""
    graph, maker = model.graph, model.graph.producer[value]
    if graph.before_floats(value) == value:
        tensor = graph.initializers.get(value)
        return None if tensor is None else model.weights.array(tensor)
    tensors = [tensor for v in graph.reads[maker] if (tensor := graph.initializers.get(v)) is not None]
    if len(tensors) < max(2, len(graph.reads[maker])):
        return None
    numbers, *others = map(model.weights.array, tensors)
    axis = next((attribute.i for attribute in graph.nodes[maker].attribute if attribute.name == "axis"), 1)
    channels = numbers.shape[axis] if -numbers.ndim <= axis < numbers.ndim else 1
    if any(each.size not in (1, channels) for each in others):
        return None
    shape = [channels if place == axis % numbers.ndim else 1 for place in range(numbers.ndim)]
    scale, *zero = (each.reshape(shape if each.size > 1 else ()).astype("f") for each in others)
    elements: Array = (numbers.astype("f") - (zero[0] if zero else 0)) * scale
    return elements
