"""The inputs to run a graph on: those that were given or recorded, otherwise made ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import ModelProto, helper

from mxtools.errors import InputError
from mxtools.graph.index import graph_inputs
from mxtools.graph.shapes import Array
from mxtools.traces.values import Values, feeds

if TYPE_CHECKING:
    from mxtools.traces.sidecar import Sidecar

SYMBOLIC = 8
"""The size of a symbolic dimension in made inputs."""


def model_inputs(proto: ModelProto, sidecar: Sidecar | None, values: Values | None) -> dict[str, Array]:
    """Return inputs for a model by name: the given or recorded ones, and made ones for the others.

    `values` are recorded ones of the trace `sidecar`, or without a trace what a user gave. Raises InputError if an
    input is missing and of a type that cannot be made.
    """
    wanted = graph_inputs(proto)
    names = [value.name for value in wanted]
    given = feeds(sidecar, values, names) if values else {}
    return given | {value.name: _made(value, sidecar) for value in wanted if value.name not in given}


def _made(value: Any, sidecar: Sidecar | None) -> Array:  # noqa: ANN401 - onnx's ValueInfoProto
    """Return an input of the right type: normally distributed floats, zeros and ones for integers.

    It has the shape that was traced, if any. The generator is seeded with the name, so every run makes the same input.
    """
    tensor_type = value.type.tensor_type
    if not value.type.HasField("tensor_type") or not tensor_type.elem_type:
        raise InputError(f"input {value.name!r} is no tensor, none can be made", "give ⟨inputs⟩")
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor_type.elem_type))
    traced = next((t.shape for t in sidecar.model.inputs if t.name == value.name), None) if sidecar else None
    shape = traced or tuple(d.dim_value if d.HasField("dim_value") else SYMBOLIC for d in tensor_type.shape.dim)
    generator = np.random.default_rng(sum(value.name.encode()))
    if dtype.kind in "iub":
        return generator.integers(0, 2, shape).astype(dtype)
    if dtype.kind not in "fV":
        raise InputError(f"input {value.name!r} is of type {dtype}, none can be made", "give ⟨inputs⟩")
    return generator.standard_normal(shape).astype(dtype)
