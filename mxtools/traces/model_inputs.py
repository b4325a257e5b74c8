"""The inputs to run a graph on: those that were given or recorded, otherwise made ones."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from itertools import count, takewhile
from typing import TYPE_CHECKING

from onnx import ModelProto, TensorShapeProto, TypeProto

from mxtools.costs.dimensions import dimension, sizes_in
from mxtools.errors import InputError
from mxtools.files.limits import MADE_INPUT
from mxtools.graph.index import graph_inputs
from mxtools.graph.shapes import Array
from mxtools.graph.types import as_type, plain_dtype, size_of
from mxtools.runtime.session_values import Value
from mxtools.traces.values import Values, feeds

if TYPE_CHECKING:
    from mxtools.traces.sidecar import Sidecar

SYMBOLIC = 8
"""The size of a symbolic dimension in made inputs."""
ITEMS = 2
"""The number of items in a made sequence."""


def model_inputs(proto: ModelProto, sidecar: Sidecar | None, values: Values | None) -> dict[str, Value]:
    """Return inputs for a model by name: the given or recorded ones, and made ones for the others.

    `values` are those that the trace `sidecar` recorded or, without a trace, what a user gave. A sequence `NAME` is one
    array of all its items, or item by item `NAME.0`, `NAME.1` … Warns of what the values lack. Raises InputError if an
    input is missing and its type cannot be made.
    """
    wanted = {value.name: value.type for value in graph_inputs(proto)}
    given: dict[str, Value] = dict(feeds(sidecar, values, list(wanted))) if values else {}
    for name, type_ in wanted.items():
        if values and type_.WhichOneof("value") not in (None, "tensor_type"):
            items = given.get(name, _items(values, name) or None)
            given |= {} if items is None else {name: as_type(items, type_)}
        elif name in given:
            given[name] = _exactly(given[name], type_, rounding=sidecar is not None)
    sizes = sizes_in(wanted, {name: getattr(value, "shape", ()) for name, value in given.items()})
    made = {name: _made(name, type_, sidecar, sizes) for name, type_ in wanted.items() if name not in given}
    if values and made:
        warnings.warn(f"inputs that {values.where} lacks are made: {', '.join(map(repr, made))}", stacklevel=2)
    return given | made


def recorded_feeds(proto: ModelProto, sidecar: Sidecar | None, values: Values) -> dict[str, Value]:
    """Return the recorded values of a graph's inputs by name, in the types that it takes."""
    asked = {value.name: value.type for value in graph_inputs(proto)}
    return {name: as_type(value, asked[name]) for name, value in feeds(sidecar, values, list(asked)).items()}


def _exactly(value: Value, type_: TypeProto, rounding: bool) -> Value:
    """Return an array in a graph's type if no number changes, as if JSON has `300` for a float; otherwise as it is.

    With `rounding`, floats become other floats anyway: what was recorded of a model suits its copy in half precision.
    """
    import numpy as np

    dtype = plain_dtype(type_.tensor_type.elem_type) if type_.tensor_type.elem_type else None
    if not isinstance(value, np.ndarray) or dtype is None or {value.dtype.kind, dtype.kind} - set("iuf"):
        return value
    with np.errstate(over="ignore", invalid="ignore"):
        converted = value.astype(dtype)
    is_rounded = rounding and value.dtype.kind == dtype.kind == "f"
    return converted if is_rounded or np.array_equal(converted, value, equal_nan=True) else value


def _items(values: Values, name: str) -> list[Array]:
    """Return the items of a sequence that were given one by one."""
    names = takewhile(values.names.__contains__, (f"{name}.{i}" for i in count()))
    return [item for item in map(values.get, names) if item is not None]


def _size(dim: TensorShapeProto.Dimension, sizes: Mapping[str, int]) -> int:
    size = size_of(dim)
    found = dimension(dim.dim_param, sizes, SYMBOLIC) if size is None else size
    return SYMBOLIC if found is None else found


def _made(name: str, type_: TypeProto, sidecar: Sidecar | None, sizes: Mapping[str, int]) -> Value:
    """Return an input of the right type: normally distributed floats, zeros and ones for integers; two in a sequence.

    It has the shape that was traced, if any, and otherwise the given sizes in symbolic dimensions. The name is the seed
    of the generator, so every run makes the same input.
    """
    import numpy as np

    if type_.HasField("optional_type"):
        return _made(name, type_.optional_type.elem_type, sidecar, sizes)
    if type_.HasField("sequence_type"):
        return [_made(f"{name}.{item}", type_.sequence_type.elem_type, sidecar, sizes) for item in range(ITEMS)]
    tensor_type = type_.tensor_type
    if not type_.HasField("tensor_type") or not tensor_type.elem_type:
        raise InputError(f"input {name!r} is not a tensor, so mxtools cannot make one", "give ⟨inputs⟩")
    dtype = plain_dtype(tensor_type.elem_type)
    traced = next((t.shape for t in sidecar.model.inputs if t.name == name), None) if sidecar else None
    shape = traced or tuple(_size(dim, sizes) for dim in tensor_type.shape.dim)
    MADE_INPUT.check(math.prod(shape) * np.dtype("float64").itemsize, f"a made value of the input {name!r}")
    generator = np.random.default_rng(sum(name.encode()))
    if dtype.kind in "iub":
        return generator.integers(0, 2, shape).astype(dtype)
    if dtype.kind != "f":
        raise InputError(f"input {name!r} has the type {dtype}, of which mxtools cannot make values", "give ⟨inputs⟩")
    return generator.standard_normal(shape).astype(dtype)
