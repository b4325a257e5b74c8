"""`mx tune`."""

from __future__ import annotations

import math
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from mxtools.errors import MOST_SHOWN, CheckError, UsageError, listed
from mxtools.tools.node_lists import Format

from ..common import check_json, emit, json_text, read_model, say, short, track
from ..completion import one_of
from ..options import DataDir, Json, Output, Plot, Source, takes_selection
from ..streams import check_output, is_pipe, write_model, write_text
from ..table import show

if TYPE_CHECKING:
    from mxtools.tuning.results import Tuned
    from mxtools.tuning.tuning import Request

PRECISIONS = ("int4", "int8", "qdq", "int8-weights", "float16", "bfloat16", "nncf", "modelopt", "quark")


class Minimised(StrEnum):
    """What a search makes as small as it can."""

    BYTES = "bytes"
    TIME = "time"


class Ranges(StrEnum):
    """How ranges of activations are found."""

    MINMAX = "minmax"
    ENTROPY = "entropy"
    PERCENTILE = "percentile"


@takes_selection
def command(
    selected: Any,
    inputs: Annotated[
        Path,
        Option(
            metavar="FILE|DIR",
            help="Inputs: .npz, .safetensors or .json; of a folder each file is a set, one file is divided into sets. "
            "Every third set is held back.",
        ),
    ],
    target: Annotated[
        str,
        Option(
            metavar="TEXT",
            help="What to meet: 'sqnr>=30' (dB), 'cosine>=0.999', 'max-error<=0.02' (of the largest value), "
            "'kl<=0.01', 'top1>=0.99'; with --eval '>=0.99*base', '>=base-0.01' or '>=0.9'.",
        ),
    ],
    source: Source = "-",
    output: Output = "-",
    to: Annotated[
        list[str] | None,
        Option(
            metavar="|".join(PRECISIONS),
            autocompletion=one_of(PRECISIONS),
            help="Precisions that a module may get, several with commas: int8 quantises activations when the model "
            "runs, qdq by ranges that are found beforehand; int4 and int8-weights quantise weights only; bfloat16 only "
            "stores weights in half the bytes; nncf, modelopt and quark are other quantisers, if they are installed. "
            "By default int8.",
            show_default=False,
        ),
    ] = None,
    minimise: Annotated[
        Minimised,
        Option(
            metavar="bytes|time",
            help="Look for the model with the fewest bytes, or for the one that runs fastest on this machine.",
        ),
    ] = Minimised.BYTES,
    evaluate: Annotated[
        str | None,
        Option(
            "--eval",
            metavar="FILE.py:FUNCTION",
            help="Function that returns a figure of a session of ONNX Runtime, and of sets of inputs if it takes two "
            "arguments; arrays that are no inputs of the model, such as labels, are in the sets. Its code is run.",
        ),
    ] = None,
    held_back: Annotated[
        Path | None,
        Option(metavar="FILE|DIR", help="Inputs that only the result is judged on, in place of every third set."),
    ] = None,
    budget: Annotated[int, Option(min=1, metavar="N", help="Models that may be made and judged.")] = 20,
    compared: Annotated[
        list[str] | None,
        Option(
            metavar="NAME",
            help="Output that is compared; by default all float outputs, for kl and top1 only the first output.",
        ),
    ] = None,
    report: Annotated[
        Path | None, Option(metavar="FILE", help="Write the report as JSON; `mx view --metric` reads it.")
    ] = None,
    plot: Plot = None,
    recipe: Annotated[
        Path | None,
        Option(
            metavar="FILE",
            help="Write a program (.py) that makes the same model without mxtools, or other tools' arguments (.json).",
        ),
    ] = None,
    state: Annotated[
        Path | None, Option(metavar="FILE", help="Keep what was found, and go on from it if the search is run again.")
    ] = None,
    per_tensor: Annotated[
        bool, Option("--per-tensor", help="One scale for each weight; by default one for each channel.")
    ] = False,
    reduce_range: Annotated[
        bool, Option("--reduce-range", help="Weights of 7 bits, for processors without VNNI.")
    ] = False,
    ranges: Annotated[
        Ranges, Option(metavar="minmax|entropy|percentile", help="How qdq finds the ranges of activations.")
    ] = Ranges.MINMAX,
    block_size: Annotated[
        int, Option(min=16, metavar="N", help="Elements of a weight that share a scale in int4 and int8-weights.")
    ] = 32,
    run_by: Annotated[
        str | None,
        Option(
            "--command",
            metavar="'TOOL {in} {out} {excluded}'",
            help="Also a quantiser of your own, which reads a file that lists the nodes to leave as they are.",
        ),
    ] = None,
    excluded_format: Annotated[
        Format,
        Option(metavar="|".join(Format), help="The form of that list, as of `mx select`."),
    ] = Format.NAMES,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Only selected modules may be made small: --exclude pooler keeps the pooler as it is.

    All modules are made small first, and the search goes into a module only if that costs too much. It sees two thirds
    of the inputs; the figure on those that it never saw is printed beside the target. If no smaller model meets the
    target, the nearest one is written, and the exit status is 1. An interrupt ends the search with the best so far.

    Example: mx tune bert.tagged.onnx --inputs calibration/ --target 'sqnr>=30' -o bert.tuned.onnx --report tune.json
    """
    from mxtools.tuning.results import check_recipe
    from mxtools.tuning.samples import samples
    from mxtools.tuning.tuning import tune
    from mxtools.views.plots import check_plot

    check_json(json, output)
    if plot:
        check_plot(plot)
    check_output(output, report, plot, recipe, state, replacing=source)
    if recipe:
        check_recipe(recipe)
    request = _request(selected, target, to, minimise, evaluate, budget, compared, state)
    request = _with_options(request, per_tensor, reduce_range, ranges, block_size, run_by, excluded_format)
    model = read_model(source, data_dir)
    sets = samples(model.proto, inputs, held_back, more=evaluate is not None)
    with track("tuning", budget) as step:
        found = tune(model, sets, request, lambda _: step())
    write_model(found.model, output, data_dir)
    if report:
        write_text(json_text(found.to_dict()), report)
    if recipe:
        write_text(found.recipe(recipe), recipe)
    if plot:
        _plot(plot, found)
    if json:
        emit(found.to_dict())
    elif not is_pipe(output):
        show(_rows(found), left=3)
    _warn_of_overflow(request)
    _conclude(found)


def _request(
    selected: Any,
    target: str,
    to: list[str] | None,
    minimise: Minimised,
    evaluate: str | None,
    budget: int,
    compared: list[str] | None,
    state: Path | None,
) -> Request:
    """Return what is wanted, as far as options say it that are no quantiser's; a user's function is loaded."""
    from mxtools.tuning.judging import found_function
    from mxtools.tuning.metrics import target as parsed
    from mxtools.tuning.tuning import DEFAULT, Request

    parsed(target, judged=evaluate is not None)
    if evaluate and compared:
        raise UsageError("a function of --eval compares no outputs", "leave out --compared")
    names = [name.strip() for text in to or () for name in text.split(",") if name.strip()]
    selection, operators = selected or (None, ())
    return Request(
        target,
        tuple(names) or DEFAULT,
        function=found_function(evaluate) if evaluate else None,
        outputs=tuple(compared or ()),
        budget=budget,
        selection=selection,
        operators=operators,
        state=state,
        minimise=minimise.value,
    )


def _with_options(
    request: Request,
    per_tensor: bool,
    reduce_range: bool,
    ranges: Ranges,
    block_size: int,
    run_by: str | None,
    excluded_format: Format,
) -> Request:
    """Return a request with the options of quantisers; UsageError where there is no such precision."""
    from dataclasses import replace

    from mxtools.tuning.quantisers import Options, quantisers

    method = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}[ranges]
    options = Options(not per_tensor, reduce_range, method, block_size, run_by or "", excluded_format)
    quantisers(request.precisions, options)
    return replace(request, options=options)


def _warn_of_overflow(request: Request) -> None:
    """Say if int8 models are worse on this processor than on others, and what helps."""
    from mxtools.runtime.processor import int8_overflows

    if {"int8", "qdq"}.intersection(request.precisions) and not request.options.reduce_range and int8_overflows():
        say("mx tune: int8 sums overflow on this processor, so int8 and qdq lose more: try --reduce-range")


def _rows(found: Tuned[Any]) -> list[tuple[str, ...]]:
    """Return the table of models of which none is both smaller and better."""
    is_timed = found.chosen.seconds is not None
    rows: list[tuple[str, ...]] = [
        (
            "model",
            "modules by precision",
            "left in float32",
            "bytes",
            "of before",
            *(["ms"] if is_timed else []),
            found.target.metric or "figure",
            "± noise",
            "",
        )
    ]
    for each in found.front:
        name = "chosen" if each is found.chosen else str(found.evaluations.index(each) + 1)
        verdict = each.verdict
        rows.append(
            (
                name,
                ", ".join(f"{count} {precision}" for precision, count in found.shares(each).items()),
                listed(found.left(each), 2) or "nothing",
                short(each.size, " "),
                f"{each.size / found.size:.1%}",
                *([f"{1000 * (each.seconds or 0):.3g}"] if is_timed else []),
                f"{verdict.value:.6g}",
                f"{verdict.noise:.2g}",
                "meets the target" if each.met else "",
            )
        )
    return rows


def _plot(path: Path, found: Tuned[Any]) -> None:
    from mxtools.views.plots import points

    points(
        path,
        f"{found.units.model.name}: {found.target.text}",
        [(each.cost, each.verdict.value) for each in found.evaluations],
        [(each.cost, each.verdict.value) for each in found.front],
        (found.chosen.cost, found.chosen.verdict.value),
        ("bytes of weights" if found.chosen.seconds is None else "seconds of a run", found.unit),
        found.target.at(found.base),
    )


def _conclude(found: Tuned[Any]) -> None:
    """Say what was found; CheckError if it does not meet the target, KeyboardInterrupt if the user ended the search."""
    wanted, value = found.target.at(found.base), found.chosen.verdict.value
    held = f", {found.held.value:.6g} on inputs held back" if found.held else ""
    figures = f"{found.target.metric or 'figure'} {value:.6g}{held} (target {wanted:.6g})"
    size = (
        f"weights {short(found.size, ' ')}B → {short(found.chosen.size, ' ')}B ({found.chosen.size / found.size:.1%})"
    )
    if found.chosen.seconds is not None:
        before = next((each.seconds for each in found.evaluations if not each.precisions), None) or math.nan
        size += f", {1000 * before:.3g} → {1000 * found.chosen.seconds:.3g} ms"
    made = f"{len(found.evaluations)} evaluations"
    problems = [each.verdict.problem for each in found.evaluations if each.verdict.problem]
    if problems:
        say(f"mx tune: {len(problems)} of {len(found.evaluations)} models could not be made or run: {problems[0]}")
    if not found.met:
        better = "smaller" if found.chosen.seconds is None else "faster"
        raise CheckError(f"no {better} model meets the target; the nearest: {size}, {figures}; {made}", found.advice)
    say(f"mx tune: {size}: {figures}; {made}; left in float32: {listed(found.left(), MOST_SHOWN) or 'nothing'}")
    if found.held and not found.held.met:
        say("mx tune: on inputs held back the model does not meet the target: give more inputs, or a stricter target")
    if found.exhausted:
        say("mx tune: the budget ended the search: a larger --budget may find a better model")
    if found.interrupted:
        raise KeyboardInterrupt
