"""`mx filter`."""

from __future__ import annotations

from typing import Any

from mxtools.passes.filter import Filter

from .common import check_json, emit, process
from .options import DataDir, Json, Output, Source, takes


@takes(Filter)
def command(
    steps: tuple[Any, ...], source: Source = "-", output: Output = "-", data_dir: DataDir = None, json: Json = False
) -> None:
    """The result holds the selected nodes and the constants and shape chains that they need, and loads in ONNX Runtime.

    A scope selects one call of a module and all below it; '*' matches within a level, '**' across levels.

    Example: mx filter bert.tagged.onnx --scope 'encoder.layer.0' -o layer0.onnx
    """
    from mxtools.pipeline import Pipeline

    check_json(json, output)
    report = process(Pipeline(steps), source, output, data_dir).report["filter"]
    if json:
        emit(report)
