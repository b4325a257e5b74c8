"""`mx verify`."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from mxtools.errors import UsageError
from mxtools.runtime.sessions import Level, Runtime
from mxtools.runtime.tolerances import Metric

from ..common import progress, read_model
from ..options import DataDir, Depth, Json, Plot, Source, Trace
from ..runtimes import (
    Library,
    runtime_of,
    say_assigned,
    takes_runtime,
)
from ..streams import is_pipe
from ..verified import conclude, conclude_bisection, conclude_round_trip, plot_errors, save, show_errors

if TYPE_CHECKING:
    from mxtools.pipeline.working_model import WorkingModel
    from mxtools.runtime.tolerances import Tolerance
    from mxtools.verify.verification import Verification


class Sort(StrEnum):
    """What to sort siblings by."""

    ERROR = "error"
    OWN_ERROR = "own-error"


@takes_runtime
def command(
    ours: Runtime,
    source: Source = "-",
    trace: Trace = None,
    against: Annotated[
        str | None,
        Option(metavar="ONNX", help="Tagged model to compare with, in place of a trace."),
    ] = None,
    inputs: Annotated[
        Path | None,
        Option(
            metavar="FILE|DIR",
            help="With --against: inputs, .npz, .safetensors or .json; of a folder each file is a set of inputs.",
        ),
    ] = None,
    isolate: Annotated[
        bool, Option("--isolate", help="Also run each module alone, on the inputs that it should have: its own error.")
    ] = False,
    tolerance: Annotated[
        float | None,
        Option(
            min=0,
            metavar="NUMBER",
            help="Largest error that still counts as equal, or smallest cosine or SQNR; by default a relative error of "
            "0.001 (--against: 0.0001), for half precision 0.02, for int8 and smaller 0.1, converted to the metric.",
            show_default=False,
        ),
    ] = None,
    metric: Annotated[
        Metric,
        Option(
            metavar="relative|relative-l2|max-abs|cosine|sqnr",
            help="What is an error. relative: largest difference / largest value; relative-l2: difference / result, as "
            "vectors; max-abs: largest difference; cosine; sqnr: in dB.",
        ),
    ] = Metric.RELATIVE,
    tolerances: Annotated[
        Path | None,
        Option(metavar="FILE.toml", help="Tolerances for modules of some classes, a line each: LayerNorm = 1e-5."),
    ] = None,
    fail_over: Annotated[
        float | None,
        Option(
            min=0,
            metavar="NUMBER",
            help="End with exit status 1 above this error, or below this cosine or SQNR; by default by the tolerance.",
        ),
    ] = None,
    bisect: Annotated[
        bool,
        Option(
            "--bisect",
            help="Only find the smallest module that is wrong: run few parts, and let the runtime fuse what is inside.",
        ),
    ] = False,
    round_trip: Annotated[
        bool,
        Option(
            "--round-trip",
            help="Only cut out each module, run it, and count those that return what PyTorch's returned, and no more.",
        ),
    ] = False,
    fail_under: Annotated[
        float | None,
        Option(
            min=0,
            max=1,
            metavar="RATE",
            help="With --round-trip: end with exit status 1 if fewer are exact; by default if not all are.",
        ),
    ] = None,
    save_case: Annotated[
        Path | None,
        Option(
            metavar="DIR",
            help="Write the module that is wrong to a new folder, with inputs, what it should return, and a script.",
        ),
    ] = None,
    values: Annotated[
        Path | None,
        Option(metavar="FILE", help="With --against: values of a run elsewhere (`mx run-values`), in place of a run."),
    ] = None,
    against_level: Annotated[
        Level, Option(metavar="none|basic|extended|all", help="As --level, for the other model.")
    ] = Level.NONE,
    against_provider: Annotated[
        list[str] | None, Option(metavar="NAME", help="As --provider, for the other model.")
    ] = None,
    against_runtime: Annotated[
        Library, Option(metavar="onnxruntime|openvino", help="As --runtime, for the other model.")
    ] = Library.ONNX_RUNTIME,
    against_values: Annotated[
        Path | None, Option(metavar="FILE", help="Values of a run of the other model elsewhere, with its inputs.")
    ] = None,
    sort: Annotated[
        Sort | None,
        Option(
            metavar="error|own-error",
            help="Sort siblings by the largest error in them, or by the largest that a module in them makes when it "
            "runs alone (--isolate), as relative L2 error; by default in the order of the calls.",
        ),
    ] = None,
    depth: Depth = None,
    plot: Plot = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Compares with what `mx trace --record` wrote of PyTorch (--trace), or with another ONNX model (--against).

    The file may be optimised or quantised, as long as its nodes have scopes. An error spreads to the modules that
    come after. Use --isolate to see the error that each module makes by itself.

    With --against, both models run on the same inputs, each in its own runtime. It can be the same file, in another
    runtime or at another level of optimisation.

    Example: mx verify bert.int8.onnx --trace bert.trace.json --isolate

    Example: mx verify bert.slim.onnx --against bert.tagged.onnx --level all
    """
    from mxtools.files.temporary import Scratch
    from mxtools.functions.folded import unfolded
    from mxtools.runtime.cases import check_case
    from mxtools.runtime.tolerances import EXACT, SAME, read_limits, tolerance_of
    from mxtools.verify.report import combined
    from mxtools.verify.round_trip import round_trip as model_round_trip
    from mxtools.verify.verification import Verification
    from mxtools.views.plots import check_plot

    _check(source, trace, against, inputs)
    _check_alone(isolate, bisect, save_case, sort, values)
    _check_values(against, values, against_values)
    _check_round_trip(round_trip, fail_under, against, isolate or bisect or bool(save_case))
    if plot:
        check_plot(plot)
    if save_case:
        check_case(save_case)
    ours = _recorded(values) or ours
    theirs = _recorded(against_values) or runtime_of(against_level, against_provider, runtime=against_runtime)
    model = unfolded(read_model(source, data_dir, trace))
    if round_trip:
        with progress("cutting out"):
            verdicts = model_round_trip(model)
        conclude_round_trip(verdicts, 1.0 if fail_under is None else fail_under, json)
        return
    exact = SAME if against else EXACT
    by_class = read_limits(tolerances) if tolerances else {}
    limit = tolerance_of(model.proto, model.graph, tolerance, metric, by_class, exact)
    with Scratch() as folder:  # for the values of the other model
        with progress("comparing"):
            if against:
                checks = list(_against(model, against, inputs or against_values, limit, folder, ours, theirs))
            else:
                checks = [Verification(model, limit, ours)]
            results = [check.bisect() for check in checks] if bisect else []
            reports = [] if bisect else [check.report(isolate) for check in checks]
        say_assigned("verify", ours)
        if bisect:
            conclude_bisection(checks, results, save_case, against, json)
            return
        found = combined(reports)
        show_errors(found, ours.name, isolate, sort, depth, json)
        if plot and found.furthest:
            plot_errors(plot, found)
        if save_case:
            wrong = ((check, [*each.culprits, each.first]) for check, each in zip(checks, reports, strict=True))
            check, call = next(((check, call) for check, calls in wrong for call in calls if call), (checks[0], None))
            save(save_case, check, call.scope if call else None, against)
        conclude(found, fail_over, quiet=json)


def _check_alone(isolate: bool, bisect: bool, save_case: Path | None, sort: Sort | None, values: Path | None) -> None:
    """Refuse options that need modules that run alone, if none does."""
    if sort is Sort.OWN_ERROR and not isolate:
        raise UsageError("modules have an error of their own only when they run alone", "give --isolate too")
    if values and (isolate or bisect or save_case):
        raise UsageError("no part can be run where only values are given", "leave out --isolate, --bisect, --save-case")
    if bisect and isolate:
        raise UsageError("--bisect runs few modules alone, and --isolate runs all", "give one of them")


def _check_values(against: str | None, values: Path | None, against_values: Path | None) -> None:
    """Refuse recorded values if there is no model to compare with."""
    if (values or against_values) and not against:
        raise UsageError("recorded values are of a run of an ONNX model", "give --against ONNX too")


def _check_round_trip(wanted: bool, fail_under: float | None, against: str | None, others: bool) -> None:
    """Refuse what the round trip does not do, and its options without it."""
    if wanted and (against or others):
        raise UsageError(
            "--round-trip compares with a recorded --trace, and does nothing else",
            "leave out --against, --isolate, --bisect, --save-case",
        )
    if fail_under is not None and not wanted:
        raise UsageError("--fail-under is a rate of modules that are exact when cut out", "give --round-trip too")


def _recorded(values: Path | None) -> Runtime | None:
    """Return a run that was recorded in a file."""
    from mxtools.traces.values import Values
    from mxtools.verify.reference import Recorded

    return Recorded(Values.open(values)) if values else None


def _check(source: str, trace: str | None, against: str | None, inputs: Path | None) -> None:
    """Refuse options that are nonsense together, before any work."""
    if bool(trace) == bool(against):
        raise UsageError(
            "there is nothing to compare with" if not trace else "--trace and --against both say what is right",
            "give --trace SIDECAR or --against ONNX",
        )
    if inputs and not against:
        raise UsageError("a trace has the inputs that were recorded with it", "leave out --inputs, or record another")
    if against and is_pipe(against) and is_pipe(source):
        raise UsageError("both models cannot come from stdin", "give the file of one")


def _against(
    model: WorkingModel,
    against: str,
    inputs: Path | None,
    tolerance: Tolerance,
    folder: Path,
    ours: Runtime,
    theirs: Runtime,
) -> Iterator[Verification]:
    """Yield what compares the model with another one, for each set of inputs; without tags, it gets the other's."""
    from mxtools.functions.folded import unfolded
    from mxtools.strategies import table
    from mxtools.traces.values import Values, files_of, require_known
    from mxtools.verify import verification
    from mxtools.verify.reference import Recorded

    reference = unfolded(read_model(against))
    reference.require_tagged(against)
    if not model.is_tagged:
        model.previous = reference
        table.get("previous").passes(False).run(model)
    for number, file in enumerate(files_of(inputs) if inputs else [None]):
        reference.values = Values.open(file) if file else reference.values
        if file and reference.values and not isinstance(theirs, Recorded):  # which has more than inputs
            require_known(reference.values, reference.proto, reference.sidecar, str(file))
        place = folder / str(number)
        place.mkdir()
        yield verification.against(model, reference, tolerance, place, ours, theirs)
