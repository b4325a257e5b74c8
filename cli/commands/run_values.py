"""`mx run-values`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Option

from mxtools.runtime.sessions import Runtime

from ..common import emit, progress, read_model, say
from ..options import DataDir, Inputs, Json, Source, Trace
from ..runtimes import say_assigned, takes_runtime
from ..streams import check_output


@takes_runtime
def command(
    ours: Runtime,
    output: Annotated[Path, Option("--output", "-o", metavar="FILE", help="File to write: .npz or .safetensors.")],
    source: Source = "-",
    trace: Trace = None,
    inputs: Inputs = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """The file has the model's inputs and what its modules return, by the names of the tensors.

    `mx verify --values` and `--against-values` read it instead of running the model: on a machine with other
    hardware, or with another version of the runtime.

    Example: mx run-values bert.tagged.onnx --level all -o bert.values.npz
    """
    from mxtools.verify.reference import record_run

    check_output(str(output))
    model = read_model(source, data_dir, trace, inputs)
    with progress("running"):
        count = record_run(model, ours, model.inputs(), output)
    say_assigned("run-values", ours)
    if json:
        emit({"runtime": ours.name, "tensors": count})
    say(f"mx run-values: {count} tensors of a run in {ours.name}: {output}")
