"""`mx graft`."""

from __future__ import annotations

from typing import Annotated

from typer import Argument, Option

from ..common import check_json, emit, process, read_model, say, say_differences
from ..options import DataDir, Inputs, Json, Output, Source, Trace
from ..streams import check_output, is_pipe

Part = Annotated[
    str | None,
    Argument(
        metavar="PART", help="ONNX file of the part; '-' is stdin. If it is the only file, the model comes from stdin."
    ),
]


Verify = Annotated[
    bool, Option("--verify", help="Run the model without and with the part; end with exit status 1 if they differ.")
]


def command(
    source: Source = "-",
    part: Part = None,
    output: Output = "-",
    trace: Trace = None,
    inputs: Inputs = None,
    verify: Verify = False,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """PART is a part that `mx filter` cut out of the model, and that another tool optimised, quantised or rewrote.

    The names of its inputs and outputs say where it belongs. They must be tensors of the model, with the same types.
    Unchanged nodes stay as they are. New nodes without a scope get the scope of the nodes that they replace.

    With --verify, the model is run without and with the part, and the outputs are compared. The inputs are recorded,
    given (--inputs) or made. Small differences, such as those of half precision or int8, are allowed. A part is refused
    if other modules make its inputs or outputs.

    Example: mx graft bert.tagged.onnx layer0.int8.onnx --verify -o bert.mixed.onnx
    """
    from mxtools.errors import UsageError
    from mxtools.graft.put_back import GraftReport
    from mxtools.passes.graft import Graft
    from mxtools.pipeline.pipeline import Pipeline

    check_json(json, output)
    model, part = (source, part) if part is not None else ("-", source)
    if is_pipe(model) and is_pipe(part):
        raise UsageError("model and part cannot both come from stdin", "give the file of one, mx graft MODEL PART")
    check_output(output, replacing=model)
    chosen = read_model(part, data_dir) if is_pipe(part) else part  # a file is read after the model
    step = Graft(chosen, verify=verify)
    report = process(Pipeline((step,)), model, output, data_dir, trace, inputs).last(GraftReport)
    if json:
        emit(report.to_dict())
        return
    say(
        f"mx graft: {report.removed} nodes removed, {report.added} added, {report.kept} unchanged, "
        f"{len(report.renamed)} values renamed"
    )
    say_differences("graft", report.differences)
