"""Try strategies until one succeeds; to try one is to export, tag and check."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mxtools.errors import CheckError, InputError, MxError, OutputError, UsageError
from mxtools.files.outputs import permitted
from mxtools.files.writing import write_model
from mxtools.pipeline.field_mapping import FieldMapping
from mxtools.pipeline.working_model import WorkingModel
from mxtools.pytorch.exporting.check import Agreement, agreement
from mxtools.pytorch.exporting.exporters import CHEAPEST, Axes, ExportAttempt, ExportError, axes_of, in_turn
from mxtools.pytorch.sources import Sources
from mxtools.scopes.annotations import Evidence
from mxtools.strategies import table
from mxtools.strategies.metrics import Meter, Metrics, Tally, direct_share, measured
from mxtools.traces.values import Values
from mxtools.verify.round_trip import RoundTrip, counted, round_trip

if TYPE_CHECKING:
    from mxtools.traces.sidecar import Sidecar


@dataclass(frozen=True)
class StrategyAttempt:
    """A strategy that was tried, and why it failed; None if it succeeded."""

    strategy: str
    error: str | None


@dataclass(frozen=True)
class Demands:
    """What an export must achieve.

    With `verify`, the model and every module cut out of it are run and compared with what PyTorch returned. `quality`,
    0 to 1, is the least share of nodes with evidence of their own, or with `verify` the least rate of the round trip.
    """

    verify: bool = False
    quality: float = 0.0


@dataclass(frozen=True)
class ExportResult(FieldMapping):
    """An export that succeeded, by which strategy, and what was tried before it."""

    output_path: Path
    strategy: str
    attempts: tuple[StrategyAttempt, ...]
    total_operations: int
    tagged_operations: int
    """The number of operations with a known module, whose scope is not just the fallback to the root."""
    hierarchy_nodes: int
    """The number of scopes that operations have."""
    warnings: tuple[str, ...] = ()
    verified_on: tuple[str, ...] = ()
    """The kinds of inputs on which the model returns what PyTorch returns; its modules only run on the first."""
    dynamic_axes: Axes = field(default_factory=dict)
    """The symbols of the dynamic axes by input."""
    static_because: str = ""
    """Why no axis is dynamic, although axes of batch and sequence should be."""
    reasons: tuple[str, ...] = ()
    """Why this strategy was selected; empty if the caller named it."""
    performance_metrics: Metrics | None = None


@dataclass
class Tagged:
    """A tagged model in memory, with what was measured while it was made and checked."""

    model: WorkingModel
    export: ExportAttempt
    optimizer: str | None
    by_pass: dict[str, int]
    warnings: list[str] = field(default_factory=list)
    round_trip: RoundTrip | None = None
    agreement: Agreement = field(default_factory=Agreement)

    def against(self, sidecar: Sidecar | None, values: Values | None) -> WorkingModel:
        """Return the model with another trace and its values, and the same graph."""
        return WorkingModel(self.model.proto, self.model.weights, sidecar=sidecar, values=values)

    @property
    def quality(self) -> float:
        """The rate of the round trip, if one was made, else the share of nodes with evidence of their own."""
        if self.round_trip:
            return self.round_trip.rate
        return direct_share(self.model.annotations)


def export_by(
    names: Iterable[str],
    sources: Sources,
    output: Path,
    demands: Demands,
    meter: Meter,
    optimizer: str | None = None,
) -> ExportResult:
    """Try strategies in turn and write the model of the first that succeeds; nothing is written before.

    Raises InputError, with all causes, if none succeeds, UsageError if a strategy is unknown, OutputError if a file
    cannot be written.
    """
    permitted(output)
    attempts: list[StrategyAttempt] = []
    for name in dict.fromkeys(names):
        try:
            tagged = checked(name, sources, demands, meter, meter, optimizer)
        except (UsageError, OutputError):
            raise
        except MxError as error:
            attempts.append(StrategyAttempt(name, str(error)))
            continue
        attempts.append(StrategyAttempt(name, None))
        with meter.stage("write"):
            write_model(tagged.model.proto, tagged.model.weights, output)
        return _result(output, attempts, tagged, meter)
    causes = "; ".join(f"{attempt.strategy}: {attempt.error}" for attempt in attempts)
    raise InputError(f"no strategy succeeds with {type(sources.subject.model).__name__} ({causes})")


def checked(
    name: str, sources: Sources, demands: Demands, meter: Meter, checks: Meter, optimizer: str | None = None
) -> Tagged:
    """Return the result of `tagged_by`, after `accepted` accepted it; raises an MxError if one of these fails.

    `checks` measures the stages of checking. If the graph of the cheapest exporter is wrong, the next exporter tries.
    """
    tagged, choice = tagged_by(name, sources, meter, optimizer), table.get(name).exporter
    exporters = in_turn(choice)
    left = exporters[exporters.index(tagged.export.exporter) + 1 :] if choice == CHEAPEST else ()
    found = None
    try:
        found = accepted(tagged, sources, demands, checks)
        if not left or not found.agreement.wrong:
            return found
    except (CheckError, InputError):
        if not left:
            raise
    try:
        return accepted(tagged_by(name, sources, meter, optimizer, left[0]), sources, demands, checks)
    except ExportError:
        if found is None:
            raise
        return found


def tagged_by(
    name: str, sources: Sources, meter: Meter, optimizer: str | None = None, exporter: str | None = None
) -> Tagged:
    """Trace, export, tag and optimise a model by a strategy; raises an MxError if one of these fails.

    `optimizer` and `exporter`, if given, replace the strategy's own.
    """
    strategy = table.get(name).optimized(optimizer)
    export = sources.export(exporter or strategy.exporter, strategy.keep_modules)[-1]
    known, values = (None, None) if strategy.trace == "none" else sources.trace(strategy.trace == "values")
    with meter.stage("tag"):
        model = export.read()
        model.sidecar, model.values = known, values
        tally = Tally(model)
        strategy.passes().run(model, tally.observe)
    return Tagged(model, export, strategy.optimize, tally.by_pass)


def accepted(tagged: Tagged, sources: Sources, demands: Demands, meter: Meter) -> Tagged:
    """Check a tagged model and return it with the results; raises an MxError if it does not meet the demands."""
    with meter.stage("check"):
        found = agreement(sources.subject, tagged.model)
    made = f"{tagged.export.exporter} export" + (f", optimised by {tagged.optimizer}" if tagged.optimizer else "")
    warning = f"{made}: {found.wrong}" if found.wrong else ""
    tagged.agreement = found
    if warning and demands.verify:
        raise CheckError(warning)
    if demands.verify:
        known, values = sources.trace(values=True, meter=meter)
        with meter.stage("verify"):
            tagged.round_trip = counted(round_trip(tagged.against(known, values)))
    if tagged.quality < demands.quality:
        raise CheckError(f"its quality is {tagged.quality:.3f}, below the required {demands.quality}")
    tagged.warnings += [*([warning] if warning else []), *tagged.export.warnings]
    return tagged


def _result(output: Path, attempts: list[StrategyAttempt], tagged: Tagged, meter: Meter) -> ExportResult:
    annotations = tagged.model.annotations
    roots = sum(word is Evidence.ROOT for word in annotations.evidence)
    warnings = [f"{a.strategy} failed: {a.error}" for a in attempts if a.error] + tagged.warnings
    if roots:
        warnings.append(f"there is no evidence for {roots} operations: they are unplaced, under the root")
    return ExportResult(
        output_path=output,
        strategy=attempts[-1].strategy,
        attempts=tuple(attempts),
        total_operations=len(annotations.call),
        tagged_operations=len(annotations.call) - roots,
        hierarchy_nodes=len({call for call in annotations.call if call is not None}),
        warnings=tuple(warnings),
        verified_on=tagged.agreement.kinds,
        dynamic_axes=axes_of(tagged.model.proto),
        static_because=tagged.export.static,
        performance_metrics=measured(tagged.model, meter, tagged.by_pass, tagged.round_trip),
    )
