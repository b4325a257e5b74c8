"""Tags that are carried over from a small tagged graph to what a tool made of it."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from mxtools.pipeline.pipeline import Pipeline
from mxtools.pipeline.working_model import WorkingModel
from mxtools.strategies.table import shipped
from mxtools.traces.values import Values
from tests.support import golden_text as golden

PIPELINE = shipped().strategies["previous"].pipeline
GENERATOR = np.random.default_rng(7)
W, V = (GENERATOR.standard_normal((8, 8)).astype(np.float32) for _ in range(2))
B = GENERATOR.standard_normal(8).astype(np.float32)


def carried(
    before: onnx.ModelProto, after: onnx.ModelProto, values: Values | None = None, pipeline: str = PIPELINE
) -> dict[str, str]:
    """Carry the tags of a model over to another, in place; return what each node has, by its first output."""
    working = WorkingModel(after, values=values, previous=WorkingModel(before))
    Pipeline.parse(pipeline).apply(working)
    return golden.written(after)


def with_weights(model: onnx.ModelProto, **arrays: np.ndarray) -> onnx.ModelProto:
    """Give a model its initializers; `__` stands for `.`."""
    model.graph.initializer.extend(numpy_helper.from_array(a, n.replace("__", ".")) for n, a in arrays.items())
    return model


LINEAR = """
g (float[2, 8] x) => (float[2, 8] y) {
    m = MatMul(x, one__w)       #@ one
    a = Add(m, one__b)          #@ one
    r = Relu(a)                 #@ act
    n = MatMul(r, two__w)       #@ two
    y = Add(n, two__b)          #@ two
}"""
LINEARS = {"one__w": W, "one__b": B, "two__w": V, "two__b": -B}


def linear() -> onnx.ModelProto:
    return with_weights(golden.read(LINEAR), **LINEARS)


def quantised(array: np.ndarray) -> np.ndarray:
    return np.round(array / np.abs(array).max() * 127).astype(np.int8)
