"""`mx run`."""

from __future__ import annotations

from typing import Annotated

from typer import Option

from .common import check_json, emit, process
from .options import DataDir, Json, Output, Source, Trace


def command(
    pipeline: Annotated[
        str, Option("--pipeline", "-p", metavar="PASSES", help="Passes: 'name{key=value,key=value},name2'.")
    ],
    source: Source = "-",
    output: Output = "-",
    trace: Trace = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """The result is the same, to the byte, as with one process for each pass.

    Example: mx run bert.onnx --trace bert.trace.json -o layer0.onnx
    -p 'project-names,resolve-auxiliary,filter{scope=encoder.layer.0}'
    """
    from mxtools.pipeline import Pipeline

    check_json(json, output)
    report = process(Pipeline.parse(pipeline), source, output, data_dir, trace).report
    if json:
        emit(report)
