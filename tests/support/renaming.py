"""The same model under other names."""

from __future__ import annotations

from onnx import ModelProto


def renamed(original: ModelProto) -> ModelProto:
    """Return a model of which all nodes, weights and inner values have other names, and the weights another order."""
    copy = ModelProto.FromString(original.SerializeToString())
    kept = {value.name for value in (*copy.graph.input, *copy.graph.output)} | {""}
    for number, node in enumerate(copy.graph.node):
        node.name = f"node{number}"
        for names in (node.input, node.output):
            names[:] = [name if name in kept else f"v{name}" for name in names]
    for tensor in copy.graph.initializer:
        tensor.name = f"v{tensor.name}"
    tensors = list(copy.graph.initializer)
    del copy.graph.initializer[:]
    copy.graph.initializer.extend(reversed(tensors))
    del copy.graph.value_info[:]
    return copy
