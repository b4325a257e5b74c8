"""`mx tag`."""

from __future__ import annotations

from .common import DataDir, Json, Output, Source, Trace, check_json, emit, process, say

PIPELINE = (
    "untag,project-metadata,project-names,project-parameters,project-values,resolve-auxiliary,"
    "settle-merged,settle-shared,record-absent"
)


def command(
    source: Source = "-", output: Output = "-", trace: Trace = None, data_dir: DataDir = None, json: Json = False
) -> None:
    """Each node gets its scope, tag and evidence in its metadata; nothing else of the model changes.

    With --trace the hierarchy is the traced model's. Without, it is what the file itself tells.

    Example: mx tag bert.onnx --trace bert.trace.json -o bert.tagged.onnx
    """
    from mxtools.pipeline import Pipeline

    check_json(json, output)
    report = process(Pipeline.parse(PIPELINE), source, output, data_dir, trace).report["tag"]
    if json:
        emit(report)
    else:
        evidence = ", ".join(f"{word} {count}" for word, count in report["evidence"].items())
        say(
            f"mx tag: {report['nodes']} nodes: {evidence}"
            + (f"; {len(report['absent'])} scopes without nodes" if report["absent"] else "")
        )
