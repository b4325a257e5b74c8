"""Comparing what parts compute with what the whole model computes at the same tensors, in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import ModelProto, ValueInfoProto, helper

from mxtools.errors import CheckError, InputError
from mxtools.files.model_files import read_model
from mxtools.graph.shapes import Array
from mxtools.pipeline.context import Context
from mxtools.runtime.distance import distance
from mxtools.runtime.sessions import computed, inner_values
from mxtools.traces.sidecar import Sidecar
from mxtools.traces.values import feeds

if TYPE_CHECKING:
    from mxtools.split.manifest import Manifest

TOLERANCE = 1e-5
"""Of a part that was cut out, relative to the largest value of the tensor: the same kernels compute it."""
SYMBOLIC = 8
"""The size that a symbolic dimension gets in made inputs."""


@dataclass(frozen=True)
class Difference:
    """How far a tensor is from another of its name: largest absolute difference, and that over the largest value."""

    output: str
    max_abs: float
    max_rel: float


def check_part(whole: ModelProto, part: ModelProto, context: Context) -> list[dict[str, Any]]:
    """Run a model and a part of it, feed the part from the whole, and give the differences of its outputs.

    Raises CheckError where one is above TOLERANCE, InputError where ONNX Runtime cannot run one of them.
    """
    given = whole_inputs(whole, context)
    asked = inputs_of(part)
    names = {value.name for value in (*asked, *part.graph.output)}
    values = dict(inner_values(whole, context.weights, given, dict.fromkeys(names - given.keys(), 0))) | given
    found = computed(part, context.weights, {v.name: values[v.name] for v in asked})
    differences = [difference(name, array, values[name]) for name, array in found.items()]
    refuse(differences, TOLERANCE)
    return [asdict(d) for d in differences]


def check_split(whole: ModelProto, manifest: Manifest, folder: Path, context: Context) -> None:
    """Run the parts of a model in the order of their manifest and compare the outputs with the model's.

    Raises CheckError where one differs by more than TOLERANCE, InputError where ONNX Runtime cannot run one of them.
    """
    values = whole_inputs(whole, context)
    wanted = computed(whole, context.weights, values)
    for part in manifest.parts:
        loaded = read_model(folder / part.file)
        values |= computed(loaded.proto, loaded.weights, values)
    refuse([difference(name, values[name], array) for name, array in wanted.items()], TOLERANCE)


def refuse(differences: list[Difference], tolerance: float) -> None:
    """Raise CheckError where a relative difference is above a tolerance, or is no number."""
    wrong = next((d for d in differences if not d.max_rel <= tolerance), None)
    if wrong:
        raise CheckError(
            f"output {wrong.output!r} differs from the whole model's by {wrong.max_abs:.3g} "
            f"({wrong.max_rel:.3g} of its largest value): see that nothing in it is random, else report it"
        )


def difference(name: str, found: Any, wanted: Any) -> Difference:  # noqa: ANN401 - sequences and maps are possible
    """Compare a value with another; what is no number is equal or infinitely different."""
    a, b = np.asarray(found), np.asarray(wanted)
    if a.shape != b.shape or a.dtype != b.dtype:
        return Difference(name, float("inf"), float("inf"))
    apart = distance(a, b)
    return Difference(name, apart.max_abs, apart.relative)


def whole_inputs(model: ModelProto, context: Context) -> dict[str, Array]:
    """Give inputs for a model: the recorded or given ones, else made ones; InputError where one cannot be made."""
    wanted, sidecar = inputs_of(model), context.sidecar
    names = [value.name for value in wanted]
    given: Mapping[str, Array] = {}
    if context.values and sidecar:
        given = feeds(sidecar, context.values, names)
    elif context.values:
        given = {name: array for name in names if (array := context.values.get(name)) is not None}
    return dict(given) | {value.name: _made(value, sidecar) for value in wanted if value.name not in given}


def inputs_of(model: ModelProto) -> list[ValueInfoProto]:
    """Give a model's inputs that have to be given: initializers that are inputs too have a value."""
    stored = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in stored]


def _made(value: Any, sidecar: Sidecar | None) -> Array:  # noqa: ANN401 - onnx's ValueInfoProto
    """Make an input of its type: normal numbers, zeros and ones for integers; of the traced shape, if any."""
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type") or not kind.elem_type:
        raise InputError(f"input {value.name!r} is no tensor, none can be made: give --inputs")
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type))
    traced = next((t.shape for t in sidecar.model.inputs if t.name == value.name), None) if sidecar else None
    shape = traced or tuple(d.dim_value if d.HasField("dim_value") else SYMBOLIC for d in kind.shape.dim)
    generator = np.random.default_rng(sum(value.name.encode()))
    if dtype.kind in "iub":
        return generator.integers(0, 2, shape).astype(dtype)
    if dtype.kind not in "fV":
        raise InputError(f"input {value.name!r} is of type {dtype}, none can be made: give --inputs")
    return generator.standard_normal(shape).astype(dtype)
