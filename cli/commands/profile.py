"""`mx profile`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from mxtools.errors import UsageError
from mxtools.runtime.sessions import Level
from mxtools.views.tree import sorted_by

from ..common import emit, progress, read_model, say, short, track
from ..options import DataDir, Depth, Inputs, Json, Plot, Source, Trace
from ..runtimes import LevelOption, ProviderOption
from ..table import drawn, show

if TYPE_CHECKING:
    from mxtools.pipeline.working_model import WorkingModel
    from mxtools.profile.kernels import Kernel
    from mxtools.profile.report import Memory, ProfileReport
    from mxtools.profile.timing import Timing

COLUMNS = ("module", "class", "µs", "share", "own µs", "kernels")


class Sort(StrEnum):
    """What to sort siblings by."""

    TIME = "time"
    OWN = "own"


def command(
    source: Source = "-",
    runs: Annotated[int, Option(min=1, help="Number of runs; the median time of each kernel counts.")] = 20,
    level: LevelOption = Level.ALL,
    threads: Annotated[int, Option(min=0, max=1024, help="Threads for one operator; 0 is ONNX Runtime's choice.")] = 0,
    provider: ProviderOption = None,
    from_profile: Annotated[
        list[Path] | None,
        Option(
            metavar="FILE",
            help="Run nothing, and read a profile: ONNX Runtime's, TensorRT's (and another FILE with its layers), or "
            "OpenVINO's counters.",
        ),
    ] = None,
    against: Annotated[
        Path | None, Option(metavar="REPORT", help="Earlier report of `mx profile --json` to compare with.")
    ] = None,
    isolate: Annotated[
        bool,
        Option("--isolate", help="Also time each module alone, cut out of the model; equal modules are run only once."),
    ] = False,
    memory: Annotated[
        bool,
        Option(
            "--memory",
            help="Also measure what the values between nodes take at most, as ONNX Runtime's arena says; for this, "
            "nothing is optimised and memory patterns are off.",
        ),
    ] = False,
    sort: Annotated[
        Sort | None,
        Option(
            metavar="time|own",
            help="Sort siblings by their time, or by their own time, largest first; by default in the order of the "
            "graph.",
        ),
    ] = None,
    depth: Depth = None,
    plot: Plot = None,
    trace: Trace = None,
    inputs: Inputs = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Runs the model in ONNX Runtime with its profiler. The inputs are recorded (--trace), given (--inputs) or made.

    With --isolate, modules are also cut out and timed alone, which shows what fusion across modules is worth.

    A module's time is the time of its own kernels and of the kernels of the modules in it. A fused kernel that does the
    work of several modules counts for the module that holds them all. Kernels that belong to no module have a row of
    their own.

    Example: mx profile bert.tagged.onnx --depth 3
    """
    from mxtools.functions.folded import unfolded
    from mxtools.profile import timing as profiling
    from mxtools.profile.report import read_report, report
    from mxtools.runtime.sessions import check_providers
    from mxtools.views.plots import check_plot

    if plot:
        check_plot(plot)
    if memory and from_profile:
        raise UsageError("--from-profile runs nothing", "leave --memory out")
    before = read_report(against) if against else None
    if provider:
        check_providers(provider)
    model = unfolded(read_model(source, data_dir, trace, inputs))
    with progress("profiling"):
        if from_profile:
            timing = profiling.read(model, from_profile)
        else:
            timing = profiling.run(model, level, runs, threads, provider or None)
    alone = _alone(model, level, runs, threads, provider) if isolate else {}
    measured = _memory(model) if memory else None
    found = report(timing, before, alone, measured)
    if plot:
        _plot(plot, timing, before, depth)
    if json:
        emit(found.model_dump(mode="json", by_alias=True, exclude_none=True))
    else:
        show(_rows(timing, before, alone, depth, sort))
        say(f"mx profile: {_summary(found)}")
        if alone:
            say(f"mx profile: {_fusion(timing, alone)}")
        if measured:
            say(f"mx profile: {_taken(measured)}")


def _alone(model: WorkingModel, level: Level, runs: int, threads: int, provider: list[str] | None) -> dict[str, float]:
    """Return the time of each module that runs alone, by scope."""
    from mxtools.profile.alone import distinct_modules, times_alone

    modules = distinct_modules(model)
    with track("running modules alone", len(modules)) as step:
        return times_alone(model, modules, level, runs, threads, provider or None, step)


def _memory(model: WorkingModel) -> Memory:
    from mxtools.profile.memory import memory_of

    with progress("measuring memory"):
        return memory_of(model)


def _taken(memory: Memory) -> str:
    """Return in one line what the values between nodes take."""
    beside = f"; {short(memory.computed, ' ')}B by their shapes" if memory.computed is not None else ""
    return f"values take {short(memory.arena, ' ')}B at the peak in ONNX Runtime's arena, not optimised{beside}"


def _fusion(timing: Timing, alone: Mapping[str, float]) -> str:
    """Return in one line the time of the whole model, and of its innermost modules when each runs alone."""
    innermost = [timed for timed in timing.root.every() if not timed.children and timed.scope in alone]
    parts = sum(alone[timed.scope] for timed in innermost)
    whole = alone.get(timing.root.scope)
    beside = f"the model takes {_micro(whole)} µs, and " if whole else ""
    return f"{beside}its {len(innermost)} innermost modules take {_micro(parts)} µs when each runs alone"


def _rows(
    timing: Timing,
    before: ProfileReport | None,
    alone: Mapping[str, float],
    depth: int | None,
    sort: Sort | None,
) -> Iterator[tuple[str, ...]]:
    """Yield the rows of the table: the head, the tree, the time that is not attributed, and the total."""
    shown = [m for m in before.modules if depth is None or m.tag.count("/") - 1 <= depth] if before else []
    earlier = {module.scope: module.microseconds for module in shown}
    lost = sum(kernel.time for kernel in timing.unknown)
    lines = [
        _Line(
            name,
            class_name,
            timed.time,
            timed.own,
            timed.all_kernels(),
            earlier.pop(timed.scope, None),
            alone.get(timed.scope),
        )
        for name, class_name, timed in drawn(sorted_by(timing.root, sort) if sort else timing.root, depth)
    ]
    lines += [_Line(scope, "(gone)", 0.0, 0.0, (), was) for scope, was in earlier.items()]
    was = sum(kernel.microseconds for kernel in before.unattributed) if before else None
    lines.append(_Line("(unattributed)", "", lost, lost, timing.unknown, was))
    was = before.microseconds if before else None
    lines.append(_Line("(total)", "", timing.total, timing.total, timing.profile.kernels, was))
    yield *COLUMNS, *(("alone µs",) if alone else ()), *(("before µs", "change") if before else ()), "providers"
    for line in lines:
        yield line.cells(timing.total, bool(before), bool(alone))


@dataclass(frozen=True)
class _Line:
    """A line of the table."""

    name: str
    class_name: str
    time: float
    own: float
    kernels: Sequence[Kernel]
    before: float | None
    alone: float | None = None

    def cells(self, total: float, comparing: bool, isolating: bool) -> tuple[str, ...]:
        share = f"{self.time / total:.1%}" if total else ""
        change = f"{self.time / self.before - 1:+.0%}" if self.before else ""
        compared = (_micro(self.before), change) if comparing else ()
        providers = ", ".join(dict.fromkeys(kernel.provider for kernel in self.kernels))
        figures = _micro(self.time), share, _micro(self.own), str(len(self.kernels))
        alone = (_micro(self.alone),) if isolating else ()
        return self.name, self.class_name, *figures, *alone, *compared, providers


def _micro(time: float | None) -> str:
    return "" if time is None else f"{time:.0f}" if time >= 100 else f"{time:.1f}"


def _summary(found: ProfileReport) -> str:
    """Return a profile in one line."""
    of_run = f", of {_micro(found.run_microseconds)} µs for a run" if found.run_microseconds else ""
    kernels = f"{_micro(found.microseconds)} µs in kernels, {found.attributed:.1%} of it in modules{of_run}"
    return f"{kernels}; {found.runtime}, median of {found.runs} run{'s' if found.runs > 1 else ''}"


def _plot(path: Path, timing: Timing, before: ProfileReport | None, depth: int | None) -> None:
    """Draw the modules of the table, each without the time of those drawn below it, and what is not attributed."""
    from mxtools.views.plots import bars

    shown = [timed for _, _, timed in drawn(timing.root, depth)]
    drawn_ = {timed.scope for timed in shown}
    whole = {timed.scope for timed in shown if any(child.scope not in drawn_ for child in timed.children)}
    series = {"now": [t.time if t.scope in whole else t.own for t in shown] + [sum(k.time for k in timing.unknown)]}
    if before:
        earlier = {m.scope: m.microseconds if m.scope in whole else m.own for m in before.modules}
        lost = sum(kernel.microseconds for kernel in before.unattributed)
        series["before"] = [earlier.get(timed.scope, 0.0) for timed in shown] + [lost]
    title = f"time by module: {timing.profile.runtime}, {timing.attributed:.1%} attributed"
    bars(path, title, [*(timed.scope for timed in shown), "(unattributed)"], series, "µs")
