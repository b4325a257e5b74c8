"""Whether a model computes what another computes, by ONNX Runtime, on drawn inputs.

Everything here runs a model that may be broken, so it is called in a child (`mxtools.runtime.children.answered`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, ValueInfoProto

from mxtools.graph.functions import model_nodes
from mxtools.graph.types import plain_dtype
from tests.fuzz.table import WRITTEN
from tests.support import running

LARGEST = 1 << 16
"""Elements of the largest input that is drawn."""
RANDOM = (
    "Bernoulli",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
)
FREE = 2
"""The size of a dimension that is free."""


class NotJudgedError(Exception):
    """Nothing can be said: the model takes no tensors, is too large, or computes different things in two runs."""


def state_of(file: Path, seed: int) -> str:
    """Return whether a model runs on drawn inputs, and always to the same end ("runs"), else only "loads", or ""."""
    try:
        onnx.load(file, load_external_data=False)
        running.session(file)
    except Exception:  # whatever it is, it does not load
        return ""
    try:
        _settled(file, drawn(file, seed), ())
    except Exception:  # it does not run, or not to one end
        return "loads"
    return "runs"


def compared(line: str, kind: str, before: Path, after: Path, seed: int) -> str:
    """Return what is wrong with what a line wrote that keeps, cuts or splits, "" if nothing; raises NotJudgedError."""
    first = before / next(word for word in line.split() if word.endswith(".onnx"))
    feeds = drawn(first, seed)
    if kind == "keeping":
        return _differing(_settled(first, feeds, ()), _run(after / WRITTEN, feeds))
    if kind == "cutting":
        return _part(first, after / WRITTEN, feeds)
    wanted = _settled(first, feeds, ())
    try:
        found = running.split_outputs(after / "parts", feeds)
    except Exception as error:
        return f"the parts do not run: {_text(error)}"
    return _differing(wanted, found)


def _part(whole: Path, part: Path, feeds: Mapping[str, Any]) -> str:
    """Compare a part with what the whole model holds at its place.

    What lies in a body, or in a function, is no value of the whole's graph; such parts are not judged.
    """
    graph, cut = onnx.load(whole, load_external_data=False).graph, onnx.load(part, load_external_data=False).graph
    stored = {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    known = {name for node in graph.node for name in node.output} | stored | {value.name for value in graph.input}
    given = [value.name for value in cut.input if value.name not in {tensor.name for tensor in cut.initializer}]
    wanted = [value.name for value in cut.output]
    if not known.issuperset(given + wanted):
        raise NotJudgedError
    values = _settled(whole, feeds, [name for name in (*given, *wanted) if name not in feeds]) | dict(feeds)
    found = _run(part, values)
    return _differing({name: values[name] for name in wanted}, found)


def _run(file: Path, feeds: Mapping[str, Any]) -> Mapping[str, Any] | str:
    try:
        return running.outputs(file, feeds)
    except Exception as error:
        return f"does not run: {_text(error)}"


def _settled(file: Path, feeds: Mapping[str, Any], more: list[str] | tuple[()]) -> dict[str, Any]:
    """Return what a model computes, and more of its values, if it does so twice."""
    model = onnx.load(file, load_external_data=False)
    if any(map(_is_random, model_nodes(model))):
        raise NotJudgedError
    asked = file
    if more:
        asked = file.with_name(f"values-of-{file.name}")  # beside it, where its data are
        asked.write_bytes(running.with_outputs(model, more).SerializeToString())
    try:
        one, two = (running.outputs(asked, feeds) for _ in range(2))
    except Exception as error:  # the values asked for may be none that ONNX Runtime returns
        raise NotJudgedError from error
    if _differing(one, two):
        raise NotJudgedError
    return one


def _is_random(node: NodeProto) -> bool:
    return node.op_type in RANDOM or (node.op_type == "Dropout" and len(node.input) > 2)  # the third: training


def drawn(file: Path, seed: int) -> dict[str, Any]:
    """Return inputs of a model; raises NotJudgedError where none can be drawn."""
    graph, chance = onnx.load(file, load_external_data=False).graph, Random(seed)
    stored = {tensor.name for tensor in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    return {value.name: _drawn(value, chance) for value in graph.input if value.name not in stored}


def _drawn(value: ValueInfoProto, chance: Random) -> Any:
    tensor = value.type.tensor_type
    shape = [dim.dim_value if dim.HasField("dim_value") else FREE for dim in tensor.shape.dim]
    if not tensor.elem_type or any(size < 0 for size in shape) or np.prod([float(size) for size in shape]) > LARGEST:
        raise NotJudgedError
    dtype, numbers = plain_dtype(tensor.elem_type), np.random.default_rng(chance.randrange(1 << 32))
    if dtype.kind == "f":
        return numbers.standard_normal(shape).astype(dtype)
    if dtype.kind in "iub":
        return numbers.integers(0, 2 if chance.random() < 0.5 else 5, shape).astype(dtype)
    return np.full(shape, "text", object)


def _differing(wanted: Mapping[str, Any], found: Mapping[str, Any] | str) -> str:
    """Return how two results differ."""
    if isinstance(found, str):
        return found
    if list(wanted) != list(found):
        return f"outputs {list(found)}, not {list(wanted)}"
    return next((f"{name}: {said}" for name in wanted if (said := _difference(wanted[name], found[name]))), "")


def _difference(one: Any, two: Any) -> str:
    """Return how two values differ: not at all where their bits are equal, or their numbers all but are."""
    if isinstance(one, list | dict) or one is None:
        return "" if repr(one) == repr(two) else "another value"
    one, two = np.asarray(one), np.asarray(two)
    if (one.dtype, one.shape) != (two.dtype, two.shape):
        return f"{two.dtype} {two.shape}, not {one.dtype} {one.shape}"
    close = np.allclose(one, two, 1e-5, 1e-6, equal_nan=True) if one.dtype.kind in "fc" else np.array_equal(one, two)
    return "" if close or one.tobytes() == two.tobytes() else "other numbers"


def _text(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
