"""`mx tag`."""

from __future__ import annotations

from typing import Annotated, Any

from typer import Option

from mxtools.passes.carry import Carry

from ..common import check_json, emit, process, say, tagged_in_words
from ..options import DataDir, Inputs, Json, Output, Source, Trace, takes


@takes(Carry)
def command(
    steps: tuple[Any, ...],
    source: Source = "-",
    output: Output = "-",
    trace: Trace = None,
    previous: Annotated[
        str | None, Option("--from", metavar="TAGGED", help="The tagged model that a tool made this one from.")
    ] = None,
    inputs: Inputs = None,
    strategy: Annotated[
        str,
        Option(
            "--strategy",
            "-s",
            metavar="NAME",
            help="Whose passes to run, else those of auto, with --from those of previous; `mx strategies` lists all.",
        ),
    ] = "",
    strict: Annotated[bool, Option("--strict", help="Fail (exit 1) when nothing is known of a node.")] = False,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Each node gets its scope, tag and evidence in its metadata; nothing else of the model changes unless asked for.

    With --trace the hierarchy is the traced model's, and where that was recorded (mx trace --record), or with --inputs,
    values are evidence too. Without, the hierarchy is what the file itself tells.

    Copies of the tags that a file has in other places (--doc-string, --rename ...) are evidence, and stay up to date.

    Example: mx tag bert.onnx --trace bert.trace.json -o bert.tagged.onnx
    """
    from mxtools.passes.record_absent import TagReport
    from mxtools.strategies import table

    check_json(json, output)
    pipeline = table.get(strategy or ("previous" if previous else "auto")).passes(strict, *steps)
    report = process(pipeline, source, output, data_dir, trace, inputs, previous).last(TagReport)
    if json:
        emit(report.to_dict())
    else:
        say(f"mx tag: {tagged_in_words(report)}")
