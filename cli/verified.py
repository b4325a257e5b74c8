"""What `mx verify` prints of its results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mxtools.errors import CheckError, listed
from mxtools.scopes.hierarchy import ROOT_CALL
from mxtools.scopes.scope import ROOT
from mxtools.views.tree import sorted_by

from .common import emit, figures, say
from .table import drawn, show

if TYPE_CHECKING:
    from mxtools.runtime.distance import Distance
    from mxtools.runtime.tolerances import Tolerance
    from mxtools.verify.report import Bisected, Checked, Verified
    from mxtools.verify.round_trip import Verdict
    from mxtools.verify.verification import Verification

COLUMNS = ("module", "class", "max abs", "relative", "cosine", "SQNR dB")
OWN = ("own relative", "own SQNR dB")
PASSED_ON = 0.1
"""A module whose own error is less than this share of the error that it returns got the rest from others."""
MOST_NAMED = 3
"""Modules that the summary names."""
FLOAT16_MAX = 65504.0


def show_errors(found: Verified, runtime: str, isolated: bool, sort: str | None, depth: int | None, json: bool) -> None:
    """Print the errors of all calls."""
    if found.untagged:
        say(
            f"mx verify: {found.untagged} nodes had no scope and got that of their neighbours; "
            "`mx tag --from` gives them their own"
        )
    if not (root := found.calls[ROOT_CALL]).outputs:
        say(f"mx verify: the results of the whole model are not compared: {root.reason}")
    if unknown := found.tolerance.by_class.keys() - {call.class_name for call in found.calls}:
        say(f"mx verify: the tolerances of {listed(sorted(unknown), MOST_NAMED)} are of no module here")
    if json:
        emit(_limits(found.tolerance) | {"runtime": runtime} | _data(found, isolated))
        return
    head = (*COLUMNS, *(OWN if isolated else ()), "")
    root = sorted_by(found.calls[0], sort) if sort else found.calls[0]
    rows = (_cells(name, class_, call, found, isolated) for name, class_, call in drawn(root, depth))
    show([head, *rows])


def conclude(found: Verified, fail_over: float | None, quiet: bool) -> None:
    """Print a summary; CheckError if an error is too large, or if nothing could be compared."""
    furthest = found.worst(found.furthest) if found.furthest else None
    if not found.furthest or not furthest:
        raise _nothing_compared()
    verdict = "; ".join(_verdict(found, found.first or found.furthest))
    limit = found.tolerance if fail_over is None else found.tolerance.everywhere(fail_over)
    if not all(found.is_right(call, limit) for call in found.calls):
        verdict += f"; --fail-over is {limit}" if fail_over is not None else ""
        there = found.noisiest.scope if found.noisiest and not found.culprits else "there"
        raise CheckError(verdict, f"look {'at ' if there != 'there' else ''}{there}; `mx compare` shows what changed")
    if not quiet:
        say(f"mx verify: {sum(bool(c.outputs) for c in found.calls)} of {len(found.calls)} calls compared; {verdict}")


def _nothing_compared() -> CheckError:
    return CheckError("no module could be compared", "check that the trace belongs to this model, and tag it again")


def _verdict(found: Verified, call: Checked) -> list[str]:
    """Return what was found out, most important first: what modules do on their own, if they ran on their own."""
    parts = []
    if found.culprits:
        whose = "its" if len(found.culprits) == 1 else "their"
        parts.append(f"wrong on {whose} own: {listed([call.scope for call in found.culprits], MOST_NAMED)}")
    if found.noisiest and found.noisiest.own and found.culprits != [found.noisiest]:
        parts.append(f"{found.noisiest.scope} adds the most noise of its own: SQNR {found.noisiest.own.sqnr:.1f} dB")
    apart = found.worst(call)
    if apart and not apart.relative:
        return [*parts, "all results are equal"]
    place = "is the first module that goes wrong" if found.first else "has the largest error"
    named = "the whole model" if call.scope == ROOT else call.scope
    return [*parts, f"{named} {place}: {_error(found.tolerance, call.class_name, apart)}"]


def _error(tolerance: Tolerance, class_name: str, apart: Distance | None) -> str:
    """Return an error beside what is right: `0.02 of its largest value (tolerance 0.001)`."""
    return f"{tolerance.text(apart) if apart else 'unknown'} (tolerance {tolerance.of(class_name)})"


def conclude_bisection(
    checks: Sequence[Verification],
    results: Sequence[Bisected],
    save_case: Path | None,
    against: str | None,
    json: bool,
) -> None:
    """Print which module is the smallest that is wrong, and save its case; CheckError if there is one."""
    worst = next((result for result in results if result.scope), results[0])
    check = checks[results.index(worst)]
    parts = sum(result.parts_run for result in results)
    if json:
        report = _limits(check.tolerance) | {"runtime": check.runtime.name, "wrong": worst.scope}
        emit(report | ({"own": figures(worst.own)} if worst.own else {}) | {"parts": parts})
    if not parts:
        raise _nothing_compared()
    if not worst.scope or not worst.own:
        say(f"mx verify: no module is wrong: the results agree (tolerance {check.tolerance})")
        return
    if save_case:
        save(save_case, check, worst.scope, against)
    raise CheckError(
        f"{worst.scope} is the smallest module that is wrong on its own: "
        f"{_error(check.tolerance, check.class_of(worst.scope), worst.own)}; {parts} parts were run",
        "cut it out with --save-case" if not save_case else f"see {save_case}",
    )


def conclude_round_trip(verdicts: Sequence[Verdict], least: float, json: bool) -> None:
    """Print what became of the modules that were cut out; CheckError if fewer than the share `least` are exact."""
    from mxtools.verify.round_trip import EXACT, GONE, counted

    counts = counted(verdicts)
    if json:
        calls = [{"scope": verdict.scope, "word": verdict.word, "reason": verdict.reason} for verdict in verdicts]
        emit({"round_trip": dict(counts), "rate": counts.rate, "calls": calls})
    elif inexact := [(v.scope, v.word, v.reason) for v in verdicts if v.word not in (EXACT, GONE)]:
        show([("module", "", "why"), *inexact])
    told = ", ".join(f"{word} {count}" for word, count in counts.items() if count)
    if counts.rate < least:
        raise CheckError(f"{counts.rate:.4f} of the modules are exact when cut out ({told})", "see the table")
    if not json:
        say(f"mx verify: {counts.rate:.4f} of the modules are exact when cut out ({told})")


def save(folder: Path, check: Verification, wrong: str | None, against: str | None) -> None:
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
    save_case(folder, case, check.model.weights, check.tolerance.of(check.class_of(wrong)), title, source, told)
    shown = f" --outputs {folder / 'actual.npz'}" if case.actual else ""
    say(f"mx verify: {wrong} is saved in {folder}; see `python {folder / 'run.py'}{shown}`")


def plot_errors(path: Path, found: Verified) -> None:
    """Draw the errors of all calls, in the graph and on their own."""
    from mxtools.views.plots import bars

    tolerance = found.tolerance
    calls = [call for call in found.calls if call.outputs]
    series = {"in the graph": [max(map(tolerance.error, call.distances)) for call in calls]}
    if any(call.own for call in calls):
        series["on its own"] = [tolerance.error(call.own) if call.own else 0.0 for call in calls]
    title = "error by module" + (f", first wrong: {found.first.scope}" if found.first else "")
    labels = [call.scope for call in calls]
    bars(path, title, labels, series, tolerance.unit, log=True, limit=tolerance.largest_error)


def _cells(name: str, class_name: str, call: Checked, found: Verified, isolated: bool) -> tuple[str, ...]:
    apart, own = call.distance, call.own
    alone = ((f"{own.relative:.2g}", f"{own.sqnr:.1f}") if own else ("",) * len(OWN)) if isolated else ()
    if apart is None:
        return name, class_name, "", "", "", "", *alone, call.reason
    shown = f"{apart.max_abs:.2g}", f"{apart.relative:.2g}", f"{apart.cosine:.4f}", f"{apart.sqnr:.1f}"
    return name, class_name, *shown, *alone, _note(call, apart, found) or call.reason


def _note(call: Checked, apart: Distance, found: Verified) -> str:
    """Return whether a call is wrong, and what is to be said of it."""
    if found.is_right(call):
        return ""
    limit = found.tolerance
    passed_on = call.own and limit.error(call.own) < PASSED_ON * max(map(limit.error, call.distances))
    note = "passed on" if passed_on else "first wrong" if call is found.first else "wrong"
    if apart.not_finite:
        note += f", {apart.not_finite} elements are inf or nan"
        if apart.largest and apart.largest > FLOAT16_MAX:
            note += f"; right are values up to {apart.largest:.2g}, and float16 ends at {FLOAT16_MAX:g}"
    return note


def _limits(tolerance: Tolerance) -> dict[str, Any]:
    by_class = {"tolerances": dict(tolerance.by_class)} if tolerance.by_class else {}
    return {"metric": tolerance.metric, "tolerance": tolerance.limit} | by_class


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
    from mxtools.files.json_text import finite

    outputs = [{"name": o.name, "tensor": o.tensor, **figures(o.distance)} for o in call.outputs]
    own: dict[str, Any] = {"own": figures(call.own)} if call.own else {}
    if call.mean is not None:
        own["mean_relative_l2"] = finite(call.mean)
    reason = {"reason": call.reason} if call.reason else {}
    return {"scope": call.scope, "tag": call.tag, "outputs": outputs, **own, **reason}
