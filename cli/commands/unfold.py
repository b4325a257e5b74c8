"""`mx unfold`."""

from __future__ import annotations

from typing import Any

from mxtools.passes.unfold import Unfold

from ..common import check_json, emit, process, say, say_differences, say_left
from ..options import DataDir, Inputs, Json, Output, Source, takes


@takes(Unfold)
def command(
    steps: tuple[Any, ...],
    source: Source = "-",
    output: Output = "-",
    inputs: Inputs = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """The nodes of functions replace the nodes that call them. Functions that nothing calls any more are removed.

    What `mx fold` folded gets its names, tags and order back. Functions that other tools wrote are unfolded too; their
    nodes without a scope get that of the call. Without a selector, all calls are unfolded.

    With --verify, the model is run before and after, and the outputs are compared. The inputs are given (--inputs) or
    made.

    Example: mx unfold bert.folded.onnx -o bert.tagged.onnx
    """
    from mxtools.functions.unfolding import UnfoldReport
    from mxtools.pipeline.pipeline import Pipeline

    check_json(json, output)
    name = "" if json else "unfold"
    report = process(Pipeline(steps), source, output, data_dir, None, inputs, command=name).last(UnfoldReport)
    if json:
        emit(report.to_dict())
        return
    if report.calls:
        say(f"mx unfold: calls unfolded: {report.calls}; functions removed: {', '.join(report.functions) or 'none'}")
    elif not report.left:
        say("mx unfold: no function is called, nothing is changed")
    say_left("unfold", report.left)
    say_differences("unfold", report.check)
