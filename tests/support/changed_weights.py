"""Models in which one module's weights were changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from mxtools.scopes import keys


def weight_of(model: onnx.ModelProto, scope: str) -> onnx.TensorProto:
    """Return the matrix that a module's nodes read."""
    names = {name for node in model.graph.node if keys.props(node).get(keys.SCOPE) == scope for name in node.input}
    return next(tensor for tensor in model.graph.initializer if tensor.name in names and len(tensor.dims) > 1)


def changed(source: Path, scope: str, target: Path, factor: float = -1.0) -> Path:
    """Write a model with one module's weights multiplied."""
    model = onnx.load(source)
    tensor = weight_of(model, scope)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), tensor.name))
    onnx.save(model, target)
    return target
