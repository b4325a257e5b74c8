"""`mx fold`."""

from __future__ import annotations

from typing import Any

from mxtools.passes.fold import Fold

from ..common import check_json, emit, process, say, say_differences, say_left
from ..options import DataDir, Inputs, Json, Output, Source, takes


@takes(Fold)
def command(
    steps: tuple[Any, ...],
    source: Source = "-",
    output: Output = "-",
    inputs: Inputs = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Each selected module becomes one node, which calls a function of the model; equal modules share a function.

    The function is given what differs between equal modules (weights, constants, attributes). Modules that cannot be
    functions are left as they are, and listed. `mx unfold` gives the same graph back, with its names and tags.

    With --verify, the model is run before and after, and the outputs are compared. The inputs are given (--inputs) or
    made.

    Example: mx fold bert.tagged.onnx --repeated -o bert.folded.onnx
    """
    from mxtools.functions.folding import FoldReport
    from mxtools.pipeline.pipeline import Pipeline

    check_json(json, output)
    name = "" if json else "fold"
    report = process(Pipeline(steps), source, output, data_dir, None, inputs, command=name).last(FoldReport)
    if json:
        emit(report.to_dict())
        return
    for function in report.functions:
        calls = f"{len(function.scopes)} call{'s' if len(function.scopes) > 1 else ''}"
        say(f"mx fold: {function.name}: {calls} of {function.nodes} node{'s' if function.nodes > 1 else ''}")
    if not report.functions:
        say("mx fold: no module occurs more than once, nothing is changed")
    say_left("fold", report.left)
    say_differences("fold", report.check)
