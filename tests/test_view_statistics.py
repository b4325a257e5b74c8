"""Statistics of weights, against numpy's of the whole array, for every type of elements."""

from __future__ import annotations

import math
import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mxtools.files.regular import PIECE
from mxtools.files.weights import WeightStore
from mxtools.graph.types import plain
from mxtools.pipeline.working_model import WorkingModel
from mxtools.views.statistics import statistics_of
from tests.support.shown_models import SCOPES, shown, tagged

RANDOM = np.random.default_rng(0)
TYPES = ("FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16", "INT8", "UINT8", "INT4", "UINT4", "INT64", "BOOL", "FLOAT8E4M3FN")


def made(kind: str, count: int, raw: bool) -> TensorProto:
    """Return a tensor of small whole numbers, which all types have."""
    element = getattr(TensorProto, kind)
    values = RANDOM.integers(0, 2 if kind == "BOOL" else 7, count)
    tensor = helper.make_tensor("w", element, [count], values)
    if raw:
        tensor = numpy_helper.from_array(numpy_helper.to_array(tensor), "w")
    assert tensor.HasField("raw_data") == raw
    return tensor


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("raw", [False, True])
def test_every_type_of_elements(kind: str, raw: bool) -> None:
    tensor = made(kind, 1001, raw)
    wanted = plain(numpy_helper.to_array(tensor)).astype(np.float64)
    found = statistics_of(tensor, WeightStore())
    assert found is not None
    assert (found.least, found.most, found.odd) == (wanted.min(), wanted.max(), 0)
    assert found.mean == pytest.approx(wanted.mean())
    assert found.deviation == pytest.approx(wanted.std())
    assert found.zeros == pytest.approx((wanted == 0).mean())


def external(folder: Path, array: np.ndarray) -> WorkingModel:
    """Return a model whose weight `w` lies in a file beside it, read without it."""
    model = tagged()
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(array, "w"))
    onnx.save(model, folder / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    return WorkingModel.read(folder / "m.onnx", "m.onnx")


def test_pieces_make_the_whole(tmp_path: Path) -> None:
    """Around 1000 the mean of squares would lose a deviation of 0.001; and one piece ends where another begins."""
    array = (1000 + 0.001 * RANDOM.standard_normal(PIECE)).astype(np.float64)
    model = external(tmp_path, array)
    (found,) = [statistics_of(t, model.weights) for t in model.proto.graph.initializer if t.name == "w"]
    assert found is not None
    assert found.deviation == pytest.approx(array.std(), rel=1e-6)
    assert found.mean == pytest.approx(array.mean(), rel=1e-12)


def test_memory_follows_the_graph(tmp_path: Path) -> None:
    model = external(tmp_path, np.ones(16 * PIECE, np.float32))
    tensor = next(t for t in model.proto.graph.initializer if t.name == "w")
    tracemalloc.start()
    statistics_of(tensor, model.weights)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 16 * PIECE, "of 64 MiB"


def test_what_is_not_finite_is_counted_and_left_out() -> None:
    tensor = numpy_helper.from_array(np.array([1, np.nan, np.inf, -np.inf, 0, 3], np.float32))
    found = statistics_of(tensor, WeightStore())
    assert found is not None
    assert (found.least, found.most, found.odd) == (0, 3, 3)
    assert found.mean == pytest.approx(4 / 3)
    nothing = statistics_of(numpy_helper.from_array(np.full(5, np.nan, np.float32)), WeightStore())
    assert nothing is not None
    assert nothing.row() == (None, None, 0, 0, 0, 5)
    huge = statistics_of(numpy_helper.from_array(np.array([1e308, -1e308, 1e308])), WeightStore())
    assert huge is not None
    assert all(n is None or math.isfinite(n) for n in huge.row())


def test_texts_and_nothing_have_none() -> None:
    assert statistics_of(helper.make_tensor("t", TensorProto.STRING, [1], [b"a"]), WeightStore()) is None
    assert statistics_of(numpy_helper.from_array(np.zeros(0, np.float32)), WeightStore()) is None
    assert statistics_of(numpy_helper.from_array(np.zeros(2, np.complex64)), WeightStore()) is None


def test_only_on_request() -> None:
    assert SCOPES
    assert all(value.statistics is None for value in shown(tagged()).values)
