"""`mx graft`."""

from __future__ import annotations

from typing import Annotated

from typer import Argument

from ..common import check_json, emit, process, read_model, say
from ..options import DataDir, Json, Output, Source
from ..streams import check_output, is_pipe

Part = Annotated[
    str | None,
    Argument(metavar="PART", help="ONNX file of the part; '-' is stdin. Alone, it goes into the model on stdin."),
]


def command(
    source: Source = "-", part: Part = None, output: Output = "-", data_dir: DataDir = None, json: Json = False
) -> None:
    """PART is what `mx filter` cut out of the model, meanwhile optimised, quantised or rewritten by any tool.

    Its place is told by the names of its inputs and outputs, which must be tensors of the model, of the same types.
    What did not change stays as it is; new nodes without a scope get that of what they replace.

    Example: mx graft bert.tagged.onnx layer0.int8.onnx -o bert.mixed.onnx
    """
    from mxtools.errors import UsageError
    from mxtools.graft.put_back import GraftReport
    from mxtools.passes.graft import Graft
    from mxtools.pipeline.pipeline import Pipeline

    check_json(json, output)
    model, part = (source, part) if part is not None else ("-", source)
    if is_pipe(model) and is_pipe(part):
        raise UsageError("model and part cannot both come from stdin: give the file of one, mx graft MODEL PART")
    check_output(output)
    step = Graft(read_model(part, data_dir) if is_pipe(part) else part)  # a file is read after the model
    report = process(Pipeline((step,)), model, output, data_dir).last(GraftReport)
    if json:
        emit(report.to_dict())
        return
    say(
        f"mx graft: {report.removed} nodes removed, {report.added} added, {report.kept} unchanged, "
        f"{len(report.renamed)} values renamed"
    )
