"""`mx filter`."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from mxtools.errors import UsageError
from mxtools.passes.filter import Filter

from ..common import check_json, emit, process, say, say_differences
from ..options import DataDir, Inputs, Json, Output, Source, Trace, takes
from ..streams import is_pipe, source_name

if TYPE_CHECKING:
    from mxtools.pipeline.pipeline import PipelineReport
    from mxtools.pipeline.working_model import WorkingModel


@takes(Filter)
def command(
    steps: tuple[Any, ...],
    source: Source = "-",
    output: Output = "-",
    trace: Trace = None,
    inputs: Inputs = None,
    save_case: Annotated[
        Path | None,
        Option(
            metavar="DIR",
            help="Write the part to a new folder, with its inputs, what it should return, and a script that compares.",
        ),
    ] = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """The result has the selected nodes, and the constants and shape computations that they need.

    A scope selects one call of a module and everything in it. '*' matches within a level, '**' across levels.

    With --verify, the part and the whole model are run and compared. The inputs are recorded, given (--inputs) or
    made. --save-case does this too, and saves these values beside the part, for a bug report.

    Example: mx filter bert.tagged.onnx --scope 'encoder.layer.0' -o layer0.onnx
    """
    from mxtools.cut.filtering import FilterReport
    from mxtools.pipeline.pipeline import Pipeline

    write = None
    if save_case:
        if not is_pipe(output):
            raise UsageError("--save-case and -o both say where the part goes", "give one of them")
        from mxtools.runtime.cases import check_case

        check_case(save_case)
        steps = tuple(replace(step, verify=True) for step in steps)
        write = partial(_save, save_case, source)
    else:
        check_json(json, output)
    pipeline, name = Pipeline(steps), "" if json else "filter"
    report = process(pipeline, source, output, data_dir, trace, inputs, command=name, write=write).last(FilterReport)
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
    say_differences("filter", report.check.differences if report.check else ())


def _save(folder: Path, source: str, part: WorkingModel, report: PipelineReport) -> None:
    """Write the part with the values of the check."""
    from mxtools.cut.filtering import FilterReport
    from mxtools.runtime.cases import Case, save_case
    from mxtools.runtime.tolerances import tolerance_of

    if check := report.last(FilterReport).check:
        scopes = ", ".join(dict.fromkeys(glob for step in report.steps for glob in getattr(step.step, "scope", ())))
        title = f"{scopes or 'A part'} of {source_name(source)}"
        origin = "what the whole model computes there in ONNX Runtime, on the CPU and without optimisations"
        tolerance = tolerance_of(part.proto, part.graph)
        save_case(folder, Case(part.proto, check.given, check.expected), part.weights, tolerance, title, origin)
        say(f"mx filter: saved in {folder}; check it with `python {folder / 'run.py'}`")
