"""`mx verify`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from mxtools.errors import UsageError
from mxtools.views.tree import sorted_by

from ..common import emit, figures, progress, read_model, say
from ..options import DataDir, Depth, Json, Plot, Source, Trace
from ..table import drawn, show

if TYPE_CHECKING:
    from mxtools.verify.verification import Checked, Verified


class Sort(StrEnum):
    """What to sort siblings by."""

    ERROR = "error"
    OWN_ERROR = "own-error"


COLUMNS = ("module", "class", "max abs", "relative", "cosine", "SQNR dB")
PASSED_ON = 0.1
"""A module whose own error is less than this share of the error that it returns got the rest from others."""
OWN = ("own relative", "own SQNR dB")


def command(
    trace: Trace,
    source: Source = "-",
    isolate: Annotated[
        bool, Option("--isolate", help="Also run each module alone, on the inputs of PyTorch's module: its own error.")
    ] = False,
    tolerance: Annotated[
        float | None,
        Option(
            min=0,
            metavar="RELATIVE",
            help="Largest relative error that still counts as equal; by default 0.001, for half precision 0.02, for "
            "int8 and smaller 0.1.",
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
    """Runs without PyTorch, on the inputs and values that `mx trace --record` wrote.

    The file may be optimised or quantised, as long as its nodes have scopes. An error spreads to the modules that
    come after. Use --isolate to see the error that each module makes by itself.

    Example: mx verify bert.int8.onnx --trace bert.trace.json --isolate
    """
    from mxtools.runtime.tolerances import usual_tolerance
    from mxtools.verify.verification import verify
    from mxtools.views.plots import check_plot

    if plot:
        check_plot(plot)
    if sort is Sort.OWN_ERROR and not isolate:
        raise UsageError("modules have an error of their own only when they run alone", "give --isolate too")
    model = read_model(source, data_dir, trace)
    tolerance = usual_tolerance(model.proto, model.graph) if tolerance is None else tolerance
    with progress("comparing"):
        found = verify(model, tolerance, isolate)
    if found.untagged:
        say(f"mx verify: {found.untagged} nodes had no scope and got that of their neighbours")
    if json:
        emit(_data(found, isolate))
    else:
        head = (*COLUMNS, *(OWN if isolate else ()), "")
        root = sorted_by(found.calls[0], sort) if sort else found.calls[0]
        rows = (_cells(name, class_, call, found, isolate) for name, class_, call in drawn(root, depth))
        show([head, *rows])
    if plot and found.furthest:
        _plot(plot, found)
    _conclude(found, tolerance if fail_over is None else fail_over, quiet=json)


def _conclude(found: Verified, fail_over: float, quiet: bool) -> None:
    """Print a summary; CheckError if the error is too large, or if nothing could be compared."""
    from mxtools.errors import CheckError

    call = found.first or found.furthest
    apart = call.distance if call else None
    if not call or not apart or not found.furthest or not found.furthest.distance:
        raise CheckError("no module could be compared", "check that the trace belongs to this model, and tag it again")
    place = "is the first module that goes wrong" if found.first else "has the largest error"
    verdict = f"{call.scope} {place}: {apart.relative:.2g} of its largest value (tolerance {found.tolerance:g})"
    if found.noisiest and found.noisiest.own:
        verdict += f"; {found.noisiest.scope} adds the most noise of its own: SQNR {found.noisiest.own.sqnr:.1f} dB"
    if found.culprits:
        verdict += f"; wrong on their own: {', '.join(call.scope for call in found.culprits)}"
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
    figures = f"{apart.max_abs:.2g}", f"{apart.relative:.2g}", f"{apart.cosine:.4f}", f"{apart.sqnr:.1f}"
    return name, class_name, *figures, *own, wrong or call.reason


def _data(found: Verified, isolated: bool) -> dict[str, Any]:
    report: dict[str, Any] = {
        "tolerance": found.tolerance,
        "first": found.first.scope if found.first else None,
        "untagged": found.untagged,
    }
    if isolated:
        report["culprits"] = [call.scope for call in found.culprits]
        report["noisiest"] = found.noisiest.scope if found.noisiest else None
    return report | {"modules": [_module(call) for call in found.calls]}


def _module(call: Checked) -> dict[str, Any]:
    outputs = [{"name": o.name, "tensor": o.tensor, **figures(o.distance)} for o in call.outputs]
    own = {"own": figures(call.own)} if call.own else {}
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
