"""Inputs of ones, for quantisers that ask for calibration data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader


def made(value: onnx.ValueInfoProto) -> np.ndarray:
    kind = value.type.tensor_type
    shape = [d.dim_value for d in kind.shape.dim]
    return np.ones(shape, onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))


class Calibration(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, model: Path) -> None:
        given = onnx.load(model).graph.input
        self.feeds: Iterator[dict[str, Any]] = iter([{value.name: made(value) for value in given}])

    def get_next(self) -> dict[str, Any] | None:
        return next(self.feeds, None)
