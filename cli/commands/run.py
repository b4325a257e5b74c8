"""`mx run`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from ..common import check_json, emit, process, read_model
from ..completion import pipeline
from ..options import DataDir, Inputs, Json, Output, Source, StrategyName, Trace
from ..streams import check_output

if TYPE_CHECKING:
    from mxtools.pipeline.base import Pass


def command(
    source: Source = "-",
    pipeline: Annotated[
        str,
        Option(
            "--pipeline",
            "-p",
            autocompletion=pipeline,
            metavar="PASSES",
            help="Passes: 'name{key=value,key=value},name2'.",
        ),
    ] = "",
    strategy: StrategyName = "",
    output: Output = "-",
    trace: Trace = None,
    inputs: Inputs = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """The result is the same, to the byte, as with one process for each pass.

    With -s, the passes of a strategy come first.

    Example: mx run bert.onnx --trace bert.trace.json -o layer0.onnx
    -p 'project-names,resolve-auxiliary,filter{scope=encoder.layer.0}'
    """
    from mxtools.errors import UsageError
    from mxtools.pipeline.pipeline import Pipeline

    check_json(json, output)
    if not (pipeline or strategy):
        raise UsageError("no passes are named", "give --pipeline or --strategy")
    steps = _of_strategy(strategy) if strategy else ()
    steps += Pipeline.parse(pipeline).passes if pipeline else ()
    check_output(output, replacing=source)
    steps = tuple(map(_with_part, steps))
    report = process(Pipeline(steps), source, output, data_dir, trace, inputs, command="" if json else "run")
    if json:
        emit(report.to_dict())


def _of_strategy(name: str) -> tuple[Pass, ...]:
    """Return the passes of a strategy."""
    from mxtools.strategies import table

    return table.get(name).passes().passes


def _with_part(step: Pass) -> Pass:
    """Return the pass; if it grafts the part from stdin, with that part, because passes read only files."""
    if step.name != "graft":  # its module takes long to import
        return step
    from mxtools.passes.graft import Graft

    if not isinstance(step, Graft) or step.part != "-":
        return step
    return Graft(read_model("-", Path(step.data_dir) if step.data_dir else None))
