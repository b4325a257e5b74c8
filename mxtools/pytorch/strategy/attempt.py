"""One strategy's try: export, tag, check; and trying several until one succeeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from mxtools.errors import CheckError, InputError, MxError, UsageError
from mxtools.files.atomic import check_writable
from mxtools.files.writing import write_model
from mxtools.graph.fingerprints import Fingerprint, fingerprint, same_fingerprint
from mxtools.graph.index import graph_inputs
from mxtools.graph.shapes import Array
from mxtools.pipeline.field_mapping import FieldMapping
from mxtools.pipeline.working_model import WorkingModel
from mxtools.pytorch.nested import tensors
from mxtools.pytorch.sources import Sources
from mxtools.pytorch.trace import trace
from mxtools.runtime.sessions import run_model
from mxtools.scopes.annotations import Evidence
from mxtools.strategies import table
from mxtools.strategies.metrics import Meter, Metrics, Tally, measured
from mxtools.traces.sidecar import Sidecar
from mxtools.traces.values import Values, feeds
from mxtools.verify.round_trip import RoundTrip, counted, round_trip

CLOSE = 1e-3
"""Relative tolerance of an export's outputs against PyTorch's: exporters reorder sums."""


@dataclass(frozen=True)
class StrategyAttempt:
    """A strategy that was tried, and why it failed; None where it did not."""

    strategy: str
    error: str | None


@dataclass(frozen=True)
class Demands:
    """What an attempt has to meet to be taken.

    With `verify` the model and every module of it, cut out, are compared with what PyTorch returned. `quality` is the
    least share of nodes with evidence of their own, and with `verify` the least rate of the round trip, both 0 to 1.
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
    """The operations of which something is known: their scope is no mere fallback to the root."""
    hierarchy_nodes: int
    """The scopes that operations bear."""
    warnings: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    """Why this strategy, where it was selected."""
    performance_metrics: Metrics | None = None


@dataclass
class Tagged:
    """A tagged model in memory, with what was found out about it."""

    model: WorkingModel
    exporter: str
    optimizer: str | None
    by_pass: dict[str, int]
    warnings: list[str] = field(default_factory=list)
    round_trip: RoundTrip | None = None

    def against(self, sidecar: Sidecar | None, values: Values | None) -> WorkingModel:
        """Return the model with another trace and its values, to be looked at."""
        return WorkingModel(self.model.proto, self.model.weights, sidecar=sidecar, values=values)

    @property
    def quality(self) -> float:
        """Give the rate of the round trip, where it was made, else the share of nodes with evidence of their own."""
        if self.round_trip:
            return self.round_trip.rate
        return measured(self.model, Meter(), {}).tag_quality.direct


def export_by(
    names: Iterable[str],
    sources: Sources,
    output: Path,
    demands: Demands,
    meter: Meter,
    optimizer: str | None = None,
) -> ExportResult:
    """Try strategies in turn and write what the first that succeeds makes; nothing is written before.

    Raises InputError, with all causes, where none succeeds, UsageError where a strategy is not known.
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
    """Trace, export and tag by a strategy, and optimise, by another optimiser than the strategy's where one is given.

    Raises an MxError where it fails.
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
    """Give a tagged model back with what the checks found; raises an MxError where it does not meet the demands."""
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
    """Run an export on the example inputs; say, where a trace is given, that an output is not what PyTorch returned.

    `name` is what the message calls the export.

    Outputs of a model that is random are not compared. Raises InputError where ONNX Runtime cannot run it.
    """
    arrays = {name: tensor.detach().numpy() for name, tensor in tensors(sources.subject.inputs)}
    names = [value.name for value in graph_inputs(model.proto)]
    values = Values(arrays.keys(), arrays.__getitem__)
    given = feeds(known, values, names) if known else arrays
    outputs = run_model(model.proto, model.weights, given)
    strange = _strange(outputs, known) if known else None
    if strange is None or _is_random(sources):
        return None
    return f"output {strange!r} of the {name} is none of those that PyTorch returned"


def _strange(outputs: Mapping[str, Array], known: Sidecar) -> str | None:
    """Give the first output that none of the traced model's is, up to rounding."""
    returned = [t.fingerprint for t in known.calls[0].outputs if t.fingerprint]
    for name, array in outputs.items():
        found = fingerprint(array)
        if found and not any(same_fingerprint(found, wanted, CLOSE) for wanted in returned):
            return name
    return None


def _is_random(sources: Sources) -> bool:
    """Tell whether the model returns something else when random numbers begin elsewhere."""

    def outputs(seed: int) -> list[Fingerprint | None]:
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
