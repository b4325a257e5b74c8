"""`mx filter`."""

from __future__ import annotations

from typing import Any

from mxtools.passes.filter import Filter

from ..common import check_json, emit, process, say
from ..options import DataDir, Inputs, Json, Output, Source, Trace, takes


@takes(Filter)
def command(
    steps: tuple[Any, ...],
    source: Source = "-",
    output: Output = "-",
    trace: Trace = None,
    inputs: Inputs = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """The result has the selected nodes, and the constants and shape computations that they need.

    A scope selects one call of a module and everything in it. '*' matches within a level, '**' across levels.

    With --verify, the part and the whole model are run and compared. The inputs are recorded, given (--inputs) or
    made.

    Example: mx filter bert.tagged.onnx --scope 'encoder.layer.0' -o layer0.onnx
    """
    from mxtools.cut.filtering import FilterReport
    from mxtools.pipeline.pipeline import Pipeline

    check_json(json, output)
    report = process(Pipeline(steps), source, output, data_dir, trace, inputs, command="" if json else "filter").last(
        FilterReport
    )
    if json:
        emit(report.to_dict())
        return
    if report.pieces > 1:
        say(f"mx filter: the selected nodes are in {report.pieces} pieces that no tensor connects")
    if report.quantised:
        say(
            f"mx filter: {', '.join(report.quantised)}: quantised numbers, as the file has them; "
            "the node that makes them has their scale and zero point"
        )
    for found in report.differences or ():
        say(f"mx filter: {found['output']}: max difference {found['max_abs']:.3g} ({found['max_rel']:.3g} relative)")
