"""`mx split`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from ..common import known, progress, read_model, say, short
from ..completion import classes, one_of, scopes
from ..options import DataDir, Dims, Inputs, Json, Plot, Source, Trace
from ..streams import write_text
from ..table import show

if TYPE_CHECKING:
    from mxtools.split.records import Manifest, PartFile

Names = list[str] | None

MEASURES = ("bytes", "multiply-adds", "time", "activations")
COLUMNS = ("part", "modules", "nodes", "bytes", "multiply-adds", "activations", "peak", "from other parts")
MOST_SHOWN = 2
"""Modules of a part that the table names."""


def command(
    folder: Annotated[
        Path | None,
        Option("--dir", "-d", metavar="DIR", help="Folder to write to; made if it does not exist.", show_default=False),
    ] = None,
    source: Source = "-",
    each: Annotated[
        Names, Option(autocompletion=scopes, metavar="GLOB", help="Scope, as a glob: each outermost match is a part.")
    ] = None,
    depth: Annotated[
        int | None,
        Option(
            min=1,
            metavar="N",
            help="Each module N levels below the root is a part.",
            show_default=False,
        ),
    ] = None,
    class_: Annotated[
        Names,
        Option(
            "--class", autocompletion=classes, metavar="NAME", help="Each outermost module of this class is a part."
        ),
    ] = None,
    exclude: Annotated[
        Names, Option(autocompletion=scopes, metavar="GLOB", help="Scope to leave in the rest, as a glob.")
    ] = None,
    parts: Annotated[
        int | None, Option(min=1, metavar="N", help="Make N parts, cut between modules.", show_default=False)
    ] = None,
    max_bytes: Annotated[
        str | None,
        Option(metavar="SIZE", help="The most bytes of weights of a part: 200MB, 64KiB.", show_default=False),
    ] = None,
    max_multiply_adds: Annotated[
        str | None, Option(metavar="COUNT", help="The most multiply-adds of a part: 1.5G.", show_default=False)
    ] = None,
    balance: Annotated[
        str | None,
        Option(
            metavar="|".join(MEASURES),
            autocompletion=one_of(MEASURES),
            help="What to spread evenly over the parts; by default bytes.",
            show_default=False,
        ),
    ] = None,
    profile: Annotated[
        Path | None,
        Option(metavar="REPORT", help="Times for --balance time, from `mx profile --json`.", show_default=False),
    ] = None,
    placement: Annotated[
        Path | None,
        Option(
            metavar="FILE",
            help="JSON that maps scopes (globs) to the places where they run; each place becomes one or more parts.",
            show_default=False,
        ),
    ] = None,
    dim: Dims = None,
    dry_run: Annotated[
        bool, Option("--dry-run", help="Write nothing; show the parts, what they come to, and what crosses.")
    ] = False,
    plot: Plot = None,
    genai: Annotated[
        Path | None,
        Option(
            metavar="CONFIG",
            help="Also write genai_config.json, with which onnxruntime-genai generates text by the parts; CONFIG is "
            "the folder of the Hugging Face model, or its config.json.",
            show_default=False,
        ),
    ] = None,
    verify: Annotated[
        bool, Option("--verify", help="Run the parts and the whole model; end with exit status 1 if they differ.")
    ] = False,
    shape: Annotated[Names, Option(metavar="NAME=SIZE,…", help="Shape of a tensor, if it cannot be inferred.")] = None,
    type_: Annotated[
        Names, Option("--type", metavar="NAME=TYPE", help="Element type of a tensor, if it cannot be inferred.")
    ] = None,
    trace: Trace = None,
    inputs: Inputs = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """The parts, run in the order of DIR/manifest.json, compute what the whole model computes; `mx run-parts` does it.

    With --each, --class or --depth, each selected module is a part; the nodes outside of them become parts too. With
    --parts or a limit, cuts are between modules, where few and small tensors cross; modules that are selected then stay
    whole. Parts may be up to 5 % larger than in the best balance, if fewer bytes then cross between them. With
    --placement, a node runs at the place of the innermost module around it that the file lists.

    Weights that several parts share are written once. Files that an earlier split wrote to DIR are replaced. Other
    files are left alone.

    Symbolic dimensions without --dim count as 8 long, for what is shown and for --balance.

    Exit status 1: a limit cannot be kept; the message names the smallest possible.

    Example: mx split bert.tagged.onnx --parts 4 --balance multiply-adds -d parts
    """
    from mxtools.costs.dimensions import sizes_of
    from mxtools.cut.declarations import declare, shapes_of, types_of
    from mxtools.errors import UsageError
    from mxtools.functions.folded import unfolded
    from mxtools.profile.report import read_report
    from mxtools.scopes.selection import Selection
    from mxtools.split import manifest
    from mxtools.split.division.budget import amount_of, budget_of
    from mxtools.split.division.placement import read_placement
    from mxtools.split.genai import read_config
    from mxtools.split.planning import planned

    _check(folder, dry_run, plot)
    texts = {"bytes": max_bytes, "multiply-adds": max_multiply_adds}
    limits = {name: None if text is None else amount_of(text) for name, text in texts.items()}
    times = {module.scope: module.own for module in read_report(profile).modules} if profile else None
    budget = budget_of(parts, limits, balance, times)
    places = read_placement(placement) if placement else None
    config = read_config(genai) if genai else None
    if places and (budget or each or class_ or depth or exclude):
        raise UsageError("--placement says all of where modules go", "leave the other options out")
    sizes = sizes_of(dim or ())
    model = unfolded(read_model(source, data_dir, trace, inputs))
    selections = [
        *(Selection(scopes=(glob,)) for glob in each or ()),
        *(Selection(classes=(name,)) for name in class_ or ()),
    ]
    declare(model, shapes_of(shape or ()), types_of(type_ or ()))
    with progress("splitting"):
        found, described = planned(
            model, budget or places, selections, depth, tuple(exclude or ()), sizes, dry_run or plot is not None
        )
    if plot:
        _draw(described, plot)
    if dry_run:
        _show(described, json)
        return
    with progress(f"writing {len(found)} parts"):
        written = manifest.write(model, found, Path(str(folder)), verify, described, config)
    if json:
        write_text(manifest.dumps(written), "-")
    else:
        say(f"mx split: {len(found)} part{'s' if len(found) > 1 else ''} in {folder}{_balance(written)}")


def _check(folder: Path | None, dry_run: bool, plot: Path | None) -> None:
    """Raise UsageError or OutputError where nothing can be written, before any work."""
    from mxtools.errors import UsageError
    from mxtools.split import manifest
    from mxtools.views.plots import check_plot

    if not dry_run:
        if folder is None:
            raise UsageError("there is no folder to write to", "give -d DIR, or --dry-run")
        manifest.check(folder)
    if plot:
        check_plot(plot)


def _show(manifest: Manifest, json: bool) -> None:
    """Show what a split would be, on stdout."""
    from mxtools.split.manifest import dumps

    if json:
        write_text(dumps(manifest), "-")
        return
    show([COLUMNS, *(_cells(part) for part in manifest.parts)])
    if manifest.plan:
        say(f"mx split: {len(manifest.parts)} parts{_balance(manifest)}")
    if manifest.sizes:
        say(f"mx split: for {', '.join(f'{name}={size}' for name, size in manifest.sizes.items())}")


def _cells(part: PartFile) -> tuple[str, ...]:
    if part.figures is None:
        return (part.file,)
    own = part.figures
    crossing = f"{own.tensors_in} · {short(own.bytes_in, ' ')}B" if own.tensors_in else "-"
    figures = str(own.nodes), short(own.bytes, " ") + "B", known(own.multiply_adds, own.uncounted)
    live = short(own.activations, " ") + "B", known(own.peak, own.unsized, "B")
    return part.file, _modules(own.modules), *figures, *live, crossing


def _modules(modules: tuple[str, ...]) -> str:
    """Return the modules of a part in a few words: the first and the last one."""
    return " … ".join(dict.fromkeys((modules[0], modules[-1]))) if modules else "-"


def _balance(manifest: Manifest) -> str:
    """Return how even the parts are, in words."""
    plan = manifest.plan
    if plan is None:
        return ""
    largest, bound = (_amount(plan.measure, amount) for amount in (plan.largest, plan.bound))
    ratio = plan.largest / plan.mean if plan.mean else 1.0
    return f"; {plan.measure}: the largest has {largest}, {ratio:.2f} times the mean, and at least {bound} is needed"


def _amount(measure: str, amount: int) -> str:
    """Return an amount of a measure in words; times are nanoseconds, and are shown as those of `mx profile`."""
    if measure == "time":
        return f"{amount / 1000:.3g} µs"
    return short(amount) if measure == "multiply-adds" else f"{short(amount, ' ')}B"


def _draw(manifest: Manifest, file: Path) -> None:
    from mxtools.views.plots import bars

    found = [(part.file.removesuffix(".onnx"), part.figures) for part in manifest.parts if part.figures]
    series = {
        "weights": [figures.bytes / 1e6 for _, figures in found],
        "peak of activations": [figures.peak / 1e6 for _, figures in found],
        "tensors from other parts": [figures.bytes_in / 1e6 for _, figures in found],
    }
    bars(file, "Memory of the parts", [name for name, _ in found], series, "MB")
