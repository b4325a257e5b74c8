"""`mx verify`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from mxtools.errors import UsageError, listed
from mxtools.runtime.sessions import Level, Runtime
from mxtools.scopes.scope import ROOT
from mxtools.views.tree import sorted_by

from ..common import emit, figures, finite, progress, read_model, say
from ..options import DataDir, Depth, Json, Plot, Source, Trace
from ..runtimes import (
    LevelOption,
    Library,
    LibraryOption,
    ProviderOption,
    runtime_of,
    say_assigned,
    takes_runtime,
)
from ..streams import is_pipe
from ..table import drawn, show

if TYPE_CHECKING:
    from mxtools.pipeline.working_model import WorkingModel
    from mxtools.verify.report import Bisected, Checked, Verified
    from mxtools.verify.verification import Verification


class Sort(StrEnum):
    """What to sort siblings by."""

    ERROR = "error"
    OWN_ERROR = "own-error"


COLUMNS = ("module", "class", "max abs", "relative", "cosine", "SQNR dB")
PASSED_ON = 0.1
"""A module whose own error is less than this share of the error that it returns got the rest from others."""
MOST_NAMED = 3
"""Modules that the summary names."""
OWN = ("own relative", "own SQNR dB")


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
            metavar="RELATIVE",
            help="Largest relative error that still counts as equal; by default 0.001 (--against: 0.0001), for half "
            "precision 0.02, for int8 and smaller 0.1.",
            show_default=False,
        ),
    ] = None,
    fail_over: Annotated[
        float | None,
        Option(
            min=0,
            metavar="RELATIVE",
            help="End with exit status 1 above this relative error; by default above the tolerance.",
        ),
    ] = None,
    bisect: Annotated[
        bool,
        Option(
            "--bisect",
            help="Only find the smallest module that is wrong: run few parts, and let the runtime fuse what is inside.",
        ),
    ] = False,
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
    against_level: LevelOption = Level.NONE,
    against_provider: ProviderOption = None,
    against_runtime: LibraryOption = Library.ONNX_RUNTIME,
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
    from mxtools.passes.unfold import unfolded
    from mxtools.runtime.cases import check_case
    from mxtools.runtime.tolerances import EXACT, SAME, usual_tolerance
    from mxtools.verify.report import combined
    from mxtools.verify.verification import Verification
    from mxtools.views.plots import check_plot

    _check(source, trace, against, inputs)
    _check_alone(isolate, bisect, save_case, sort, values)
    _check_values(against, values, against_values)
    if plot:
        check_plot(plot)
    if save_case:
        check_case(save_case)
    ours = _recorded(values) or ours
    theirs = _recorded(against_values) or runtime_of(against_level, against_provider, runtime=against_runtime)
    model = unfolded(read_model(source, data_dir, trace))
    exact = SAME if against else EXACT
    tolerance = usual_tolerance(model.proto, model.graph, exact) if tolerance is None else tolerance
    with Scratch() as folder:  # for the values of the other model
        with progress("comparing"):
            if against:
                checks = list(_against(model, against, inputs or against_values, tolerance, folder, ours, theirs))
            else:
                checks = [Verification(model, tolerance, ours)]
            results = [check.bisect() for check in checks] if bisect else []
            reports = [] if bisect else [check.report(isolate) for check in checks]
        if bisect:
            _bisected(checks, results, save_case, against, json)
            return
        found = combined(reports)
        say_assigned("verify", ours)
        _show(found, ours.name, isolate, sort, depth, json)
        if plot and found.furthest:
            _plot(plot, found)
        if save_case:
            wrong = ((check, [*each.culprits, each.first]) for check, each in zip(checks, reports, strict=True))
            check, call = next(((check, call) for check, calls in wrong for call in calls if call), (checks[0], None))
            _save(save_case, check, call.scope if call else None, against)
        _conclude(found, tolerance if fail_over is None else fail_over, quiet=json)


def _show(found: Verified, runtime: str, isolate: bool, sort: Sort | None, depth: int | None, json: bool) -> None:
    """Print the errors of all calls."""
    if found.untagged:
        say(f"mx verify: {found.untagged} nodes had no scope and got that of their neighbours")
    if json:
        emit({"tolerance": found.tolerance, "runtime": runtime} | _data(found, isolate))
        return
    head = (*COLUMNS, *(OWN if isolate else ()), "")
    root = sorted_by(found.calls[0], sort) if sort else found.calls[0]
    rows = (_cells(name, class_, call, found, isolate) for name, class_, call in drawn(root, depth))
    show([head, *rows])


def _check_alone(isolate: bool, bisect: bool, save_case: Path | None, sort: Sort | None, values: Path | None) -> None:
    """Refuse options that need modules that run alone, where none does."""
    if sort is Sort.OWN_ERROR and not isolate:
        raise UsageError("modules have an error of their own only when they run alone", "give --isolate too")
    if values and (isolate or bisect or save_case):
        raise UsageError("no part can be run where only values are given", "leave out --isolate, --bisect, --save-case")
    if bisect and isolate:
        raise UsageError("--bisect runs few modules alone, and --isolate runs all", "give one of them")


def _check_values(against: str | None, values: Path | None, against_values: Path | None) -> None:
    """Refuse recorded values where there is no model to compare with."""
    if (values or against_values) and not against:
        raise UsageError("recorded values are of a run of an ONNX model", "give --against ONNX too")


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
    tolerance: float,
    folder: Path,
    ours: Runtime,
    theirs: Runtime,
) -> Iterator[Verification]:
    """Yield what compares the model with another one, for each set of inputs; without tags, it gets the other's."""
    from mxtools.passes.unfold import unfolded
    from mxtools.strategies import table
    from mxtools.traces.values import Values
    from mxtools.verify import verification

    reference = unfolded(read_model(against))
    reference.require_tagged(against)
    if not model.is_tagged:
        model.previous = reference
        table.get("previous").passes(False).run(model)
    for number, file in enumerate(_sets(inputs) if inputs else [None]):
        reference.values = Values.open(file) if file else reference.values
        place = folder / str(number)
        place.mkdir()
        yield verification.against(model, reference, tolerance, place, ours, theirs)


def _sets(inputs: Path) -> list[Path]:
    """Return the files of inputs: one, or those of a folder."""
    if not inputs.is_dir():
        return [inputs]
    found = sorted(path for path in inputs.iterdir() if path.suffix in (".npz", ".safetensors", ".json"))
    if not found:
        raise UsageError(f"the folder {inputs} has no .npz, .safetensors or .json file", "give another folder")
    return found


def _bisected(
    checks: Sequence[Verification],
    results: Sequence[Bisected],
    save_case: Path | None,
    against: str | None,
    json: bool,
) -> None:
    """Print which module is the smallest that is wrong; CheckError if there is one."""
    from mxtools.errors import CheckError

    say_assigned("verify", checks[0].runtime)
    worst = next((result for result in results if result.scope), results[0])
    parts = sum(result.parts_run for result in results)
    if json:
        report = {"tolerance": checks[0].tolerance, "runtime": checks[0].runtime.name, "wrong": worst.scope}
        emit(report | ({"own": figures(worst.own)} if worst.own else {}) | {"parts": parts})
    if not worst.scope or not worst.own:
        say(f"mx verify: no module is wrong: the results agree within {checks[0].tolerance:g} of the largest value")
        return
    if save_case:
        _save(save_case, checks[results.index(worst)], worst.scope, against)
    raise CheckError(
        f"{worst.scope} is the smallest module that is wrong on its own: {worst.own.relative:.2g} of its largest value "
        f"(tolerance {checks[0].tolerance:g}; {parts} parts were run)",
        "cut it out with --save-case" if not save_case else f"see {save_case}",
    )


def _save(folder: Path, check: Verification, wrong: str | None, against: str | None) -> None:
    """Write the module that is wrong, with what it was given and should return, to a folder."""
    from mxtools.runtime.cases import save_case

    if wrong is None:
        say("mx verify: no module is wrong, so no case is saved")
        return
    case = check.case(wrong)
    source = f"what {against} computes there" if against else "what PyTorch's module returned"
    ran = f"`actual.npz` holds what it returned in {check.runtime.name}" if case.actual else "It did not run"
    told = f"{ran}, where it is wrong{'' if case.actual else f': {check.runtime.name}'}."
    title = f"{wrong} of {check.model.name}"
    save_case(folder, case, check.model.weights, check.tolerance, title, source, told)
    shown = f" --outputs {folder / 'actual.npz'}" if case.actual else ""
    say(f"mx verify: {wrong} is saved in {folder}; see `python {folder / 'run.py'}{shown}`")


def _conclude(found: Verified, fail_over: float, quiet: bool) -> None:
    """Print a summary; CheckError if the error is too large, or if nothing could be compared."""
    from mxtools.errors import CheckError

    call = found.first or found.furthest
    apart = call.distance if call else None
    if not call or not apart or not found.furthest or not found.furthest.distance:
        raise CheckError("no module could be compared", "check that the trace belongs to this model, and tag it again")
    place = "is the first module that goes wrong" if found.first else "has the largest error"
    named = "the whole model" if call.scope == ROOT else call.scope
    verdict = f"{named} {place}: {apart.relative:.2g} of its largest value (tolerance {found.tolerance:g})"
    if not apart.relative:
        verdict = "all results are equal"
    if found.noisiest and found.noisiest.own:
        verdict += f"; {found.noisiest.scope} adds the most noise of its own: SQNR {found.noisiest.own.sqnr:.1f} dB"
    if found.culprits:
        verdict += f"; wrong on their own: {listed([call.scope for call in found.culprits], MOST_NAMED)}"
    if not found.furthest.distance.relative <= fail_over:
        there = found.noisiest.scope if found.noisiest and not found.culprits else "there"
        raise CheckError(verdict, f"look {'at ' if there != 'there' else ''}{there}; `mx compare` shows what changed")
    if not quiet:
        say(f"mx verify: {sum(bool(c.outputs) for c in found.calls)} of {len(found.calls)} calls compared; {verdict}")


def _cells(name: str, class_name: str, call: Checked, found: Verified, isolate: bool) -> tuple[str, ...]:
    apart = call.distance
    own = [f"{call.own.relative:.2g}", f"{call.own.sqnr:.1f}"] if call.own else [""] * len(OWN)
    own = own if isolate else []
    if apart is None:
        return name, class_name, "", "", "", "", *own, call.reason
    right = apart.relative <= found.tolerance or all(output.harmless for output in call.outputs)
    wrong = "" if right else "first wrong" if call is found.first else "wrong"
    if wrong and call.own and call.own.relative < PASSED_ON * apart.relative:
        wrong = "passed on"
    if wrong and apart.not_finite:
        wrong += f", {apart.not_finite} elements are inf or nan"
    figures = f"{apart.max_abs:.2g}", f"{apart.relative:.2g}", f"{apart.cosine:.4f}", f"{apart.sqnr:.1f}"
    return name, class_name, *figures, *own, wrong or call.reason


def _data(found: Verified, isolated: bool) -> dict[str, Any]:
    report: dict[str, Any] = {
        "first": found.first.scope if found.first else None,
        "untagged": found.untagged,
    }
    if isolated:
        report["culprits"] = [call.scope for call in found.culprits]
        report["noisiest"] = found.noisiest.scope if found.noisiest else None
    return report | {"modules": [_module(call) for call in found.calls]}


def _module(call: Checked) -> dict[str, Any]:
    outputs = [{"name": o.name, "tensor": o.tensor, **figures(o.distance)} for o in call.outputs]
    own: dict[str, Any] = {"own": figures(call.own)} if call.own else {}
    if call.mean is not None:
        own["mean_relative_l2"] = finite(call.mean)
    reason = {"reason": call.reason} if call.reason else {}
    return {"scope": call.scope, "tag": call.tag, "outputs": outputs, **own, **reason}


def _plot(path: Path, found: Verified) -> None:
    from mxtools.views.plots import bars

    calls = [call for call in found.calls if call.distance]
    series = {"in the graph": [call.distance.relative for call in calls if call.distance]}
    if any(call.own for call in calls):
        series["on its own"] = [call.own.relative if call.own else 0.0 for call in calls]
    title = "error by module" + (f", first wrong: {found.first.scope}" if found.first else "")
    unit = "largest difference over largest value"
    bars(path, title, [call.scope for call in calls], series, unit, log=True, limit=found.tolerance)
