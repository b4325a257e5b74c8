"""`mx run-parts`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from mxtools.runtime.sessions import Runtime

from ..common import emit, read_model, say, say_differences, say_left, track
from ..options import DataDir, Inputs, Json
from ..runtimes import say_assigned, takes_runtime
from ..streams import check_output


@takes_runtime
def command(
    ours: Runtime,
    folder: Annotated[Path, Argument(metavar="DIR", help="Folder of a split, or its manifest.json.")],
    output: Annotated[
        Path | None,
        Option("--output", "-o", metavar="FILE", help="File to write the outputs to: .npz or .safetensors."),
    ] = None,
    inputs: Inputs = None,
    verify: Annotated[
        str | None,
        Option(
            "--verify",
            metavar="ONNX",
            help="The model that was split, to run it too; end with exit status 1 if its outputs differ.",
        ),
    ] = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """So a model that is larger than the memory runs too. Without --inputs, inputs are made, the same ones every time.

    A value between parts is kept until the last part has read it.

    Example: mx run-parts parts --inputs inputs.npz -o outputs.npz
    """
    import numpy as np

    from mxtools.runtime.output_check import require_close
    from mxtools.runtime.tolerances import tolerance_of_parts
    from mxtools.split.manifest import read
    from mxtools.split.running import PartRun, differences, inputs_of, run_parts
    from mxtools.traces.values import Values, check_values_file, write_values

    if output is not None:
        check_output(str(output))
        check_values_file(output)
    manifest, place = read(folder)
    given = inputs_of(manifest, place, Values.open(inputs) if inputs else None, str(inputs))
    runs: list[PartRun] = []
    with track("running", len(manifest.parts)) as step:

        def done(run: PartRun) -> None:
            runs.append(run)
            step()

        found = run_parts(manifest, place, given, ours, done)
    say_assigned("run-parts", ours)
    report: dict[str, Any] = {"runtime": ours.name, "parts": [run.to_dict() for run in runs], "outputs": list(found)}
    if verify is not None:
        whole = read_model(verify, data_dir)
        apart = list(differences(found, whole, given))
        require_close(apart, tolerance_of_parts(whole.proto), f"check that {verify} is the model that was split")
        report["verify"] = [{"output": d.output, "max_abs": d.max_abs, "max_rel": d.max_rel} for d in apart]
    if output is not None:
        arrays = {n: value for n, value in found.items() if isinstance(value, np.ndarray) and value.dtype.kind != "O"}
        write_values(output, arrays)
        left = [name for name in found if name not in arrays]
        say_left("run-parts", dict.fromkeys(left, "the file can hold only tensors of numbers"))
    if json:
        emit(report)
        return
    seconds = sum(run.seconds for run in runs)
    made = f"{', '.join(arrays) or 'nothing'}: {output}" if output else ", ".join(found)
    say(f"mx run-parts: {len(runs)} parts in {seconds:.2f} s; {made}")
    say_differences("run-parts", report.get("verify"))
