"""Try strategies until one succeeds; a try is to export, tag and check."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mxtools.errors import CheckError, InputError, MxError, UsageError
from mxtools.files.atomic import check_writable
from mxtools.files.writing import write_model
from mxtools.graph.fingerprints import Fingerprint, fingerprint, same_fingerprint
from mxtools.graph.index import graph_inputs
from mxtools.graph.shapes import Array
from mxtools.pipeline.field_mapping import FieldMapping
from mxtools.pipeline.working_model import WorkingModel
from mxtools.pytorch.fingerprint import array_of
from mxtools.pytorch.nested import tensors
from mxtools.pytorch.sources import Sources
from mxtools.pytorch.tracing import trace
from mxtools.runtime.sessions import run_model
from mxtools.scopes.annotations import Evidence
from mxtools.strategies import table
from mxtools.strategies.metrics import Meter, Metrics, Tally, direct_share, measured
from mxtools.traces.values import Values, feeds
from mxtools.verify.round_trip import RoundTrip, counted, round_trip

if TYPE_CHECKING:
    from mxtools.traces.sidecar import Sidecar

CLOSE = 1e-3
"""Relative tolerance of an export's outputs against PyTorch's: exporters reorder sums."""


@dataclass(frozen=True)
class StrategyAttempt:
    """A strategy that was tried, and why it failed; None where it succeeded."""

    strategy: str
    error: str | None


@dataclass(frozen=True)
class Demands:
    """What an export must meet.

    With `verify` the model, and every module of it cut out, are run and compared with what PyTorch returned. `quality`,
    0 to 1, is the least share of nodes with evidence of their own, or with `verify` the least rate of the round trip.
    """

    verify: bool = False
    quality: float = 0.0


@dataclass(frozen=True)
class ExportResult(FieldMapping):
    """An export that succeeded, by which strategy, and what was tried before."""

    output_path: Path
    strategy: str
    attempts: tuple[StrategyAttempt, ...]
    total_operations: int
    tagged_operations: int
    """The operations whose module is known: their scope is not just the fallback to the root."""
    hierarchy_nodes: int
    """The number of scopes that operations have."""
    warnings: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    """Why this strategy was selected; empty where the caller named it."""
    performance_metrics: Metrics | None = None


@dataclass
class Tagged:
    """A tagged model in memory, with what was measured while it was made and checked."""

    model: WorkingModel
    exporter: str
    optimizer: str | None
    by_pass: dict[str, int]
    warnings: list[str] = field(default_factory=list)
    round_trip: RoundTrip | None = None

    def against(self, sidecar: Sidecar | None, values: Values | None) -> WorkingModel:
        """Return the model with another trace and its values, and the same graph."""
        return WorkingModel(self.model.proto, self.model.weights, sidecar=sidecar, values=values)

    @property
    def quality(self) -> float:
        """The rate of the round trip, where one was made, else the share of nodes with evidence of their own."""
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

    Raises InputError, with all causes, where none succeeds, UsageError where a strategy is unknown.
    """
    check_writable(output)
    attempts: list[StrategyAttempt] = []
    for name in dict.fromkeys(names):
        try:
            tagged = accepted(tagged_by(name, sources, meter, optimizer), sources, demands, meter)
        except UsageError:
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


def tagged_by(name: str, sources: Sources, meter: Meter, optimizer: str | None = None) -> Tagged:
    """Trace, export, tag and optimise a model by a strategy; `optimizer` replaces the strategy's own.

    Raises an MxError where one of these fails.
    """
    strategy = table.get(name).optimized(optimizer)
    export = sources.export(strategy.exporter, strategy.keep_modules)[-1]
    known, values = (None, None) if strategy.trace == "none" else sources.trace(strategy.trace == "values")
    with meter.stage("tag"):
        model = export.read()
        model.sidecar, model.values = known, values
        tally = Tally(model)
        strategy.passes().run(model, tally.observe)
    return Tagged(model, export.exporter, strategy.optimize, tally.by_pass)


def accepted(tagged: Tagged, sources: Sources, demands: Demands, meter: Meter) -> Tagged:
    """Check a tagged model and return it with the results; raises an MxError where it does not meet the demands."""
    known, values = sources.trace(values=True) if demands.verify else (tagged.model.sidecar, None)
    with meter.stage("check"):
        made = f"{tagged.exporter} export" + (f", optimised by {tagged.optimizer}" if tagged.optimizer else "")
        warning = check_outputs(sources, tagged.model, made, known)
    if warning and demands.verify:
        raise CheckError(warning)
    if demands.verify:
        with meter.stage("verify"):
            tagged.round_trip = counted(round_trip(tagged.against(known, values)))
    if tagged.quality < demands.quality:
        raise CheckError(f"its quality is {tagged.quality:.3f}, {demands.quality} was asked for")
    tagged.warnings += [warning] if warning else []
    return tagged


def check_outputs(sources: Sources, model: WorkingModel, name: str, known: Sidecar | None) -> str | None:
    """Run an export on the example inputs; return a warning where an output is not what PyTorch returned, else None.

    `name` is what the warning calls the export. Without a trace (`known`), and where the model is random, outputs are
    not compared. Raises InputError where ONNX Runtime cannot run the export.
    """
    arrays = {name: array_of(tensor) for name, tensor in tensors(sources.subject.inputs)}
    names = [value.name for value in graph_inputs(model.proto)]
    values = Values(arrays.keys(), arrays.__getitem__)
    given = feeds(known, values, names) if known else arrays
    outputs = run_model(model.proto, model.weights, given)
    wrong = _wrong_output(outputs, known) if known else None
    if wrong is None or _is_random(sources):
        return None
    return f"output {wrong!r} of the {name} is none of those that PyTorch returned"


def _wrong_output(outputs: Mapping[str, Array], known: Sidecar) -> str | None:
    """Return the first output that equals none of the traced model's outputs up to rounding; None without one."""
    returned = [t.fingerprint for t in known.calls[0].outputs if t.fingerprint]
    for name, array in outputs.items():
        found = fingerprint(array)
        if found and not any(same_fingerprint(found, wanted, CLOSE) for wanted in returned):
            return name
    return None


def _is_random(sources: Sources) -> bool:
    """Return whether the model returns something else with another random seed."""

    def outputs(seed: int) -> list[Fingerprint | None]:
        """Return the fingerprints of the outputs of a run that begins with a seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return [tensor.fingerprint for tensor in trace(sources.subject).calls[0].outputs]

    return outputs(1) != outputs(2)


def _result(output: Path, attempts: list[StrategyAttempt], tagged: Tagged, meter: Meter) -> ExportResult:
    annotations = tagged.model.annotations
    roots = sum(word is Evidence.ROOT for word in annotations.evidence)
    warnings = [f"{a.strategy} failed: {a.error}" for a in attempts if a.error] + tagged.warnings
    if roots:
        warnings.append(f"nothing is known of {roots} operations: they are given to the root")
    return ExportResult(
        output_path=output,
        strategy=attempts[-1].strategy,
        attempts=tuple(attempts),
        total_operations=len(annotations.call),
        tagged_operations=len(annotations.call) - roots,
        hierarchy_nodes=len({call for call in annotations.call if call is not None}),
        warnings=tuple(warnings),
        performance_metrics=measured(tagged.model, meter, tagged.by_pass, tagged.round_trip),
    )
