"""Small models and parts, and grafting a part into a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto, parser

from mxtools.passes.graft import Graft
from mxtools.pipeline.pipeline import Pipeline
from mxtools.pipeline.working_model import WorkingModel
from tests.support.small_graphs import HEAD


def model_of(text: str) -> ModelProto:
    return parser.parse_model(text if text.startswith("<") else f"{HEAD} {text}")


def versioned(opset: int, body: str, domains: str = "", ir: int = 8) -> ModelProto:
    return parser.parse_model(f'<ir_version: {ir}, opset_import: ["" : {opset}{domains}]> {body}')


def put(folder: Path, model: ModelProto, part: ModelProto | str) -> dict[str, Any]:
    """Graft a part into a model, in place; return the report."""
    part = model_of(part) if isinstance(part, str) else part
    onnx.checker.check_model(part)
    onnx.save(part, folder / "part.onnx")
    report = Pipeline((Graft(str(folder / "part.onnx")),)).apply(WorkingModel(model))
    onnx.checker.check_model(model, full_check=True)
    return report.to_dict()["graft"]
