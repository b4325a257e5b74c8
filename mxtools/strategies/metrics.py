"""Performance metrics, in one schema for every strategy; `docs/metrics.schema.json` is generated from it."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from mxtools.evidence.absent import absent_scopes
from mxtools.graph.index import NOWHERE
from mxtools.pipeline.field_mapping import FieldMapping
from mxtools.scopes.annotations import INDIRECT, Annotations, Evidence
from mxtools.verify.round_trip import RoundTrip

if TYPE_CHECKING:
    from mxtools.pipeline.pipeline import Step
    from mxtools.pipeline.working_model import WorkingModel
    from mxtools.traces.sidecar import Sidecar

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"


class _MetricsRecord(FieldMapping, BaseModel):  # type: ignore[misc]  # a mapping iterates over its keys
    model_config = ConfigDict(frozen=True, populate_by_name=True)


class Stage(_MetricsRecord):
    """What one stage cost."""

    seconds: float
    peak_memory: Annotated[int, Field(description="peak memory of the process during the stage, in bytes")]


class TagQuality(_MetricsRecord):
    """How well-founded the tags of a model's nodes are."""

    direct: Annotated[float, Field(ge=0, le=1, description="share of nodes with direct evidence")]
    merged: Annotated[int, Field(description="nodes that do the work of several modules")]
    roots: Annotated[int, Field(description="nodes without any evidence")]
    absent: Annotated[dict[str, int], Field(description="traced calls without nodes, by reason")]


class Metrics(_MetricsRecord):
    """What an export by a strategy cost and how good it is."""

    schema_: Annotated[Literal["mxtools.metrics/1"], Field(alias="schema")] = "mxtools.metrics/1"
    stages: Annotated[
        dict[str, Stage],
        Field(description="by stage: trace, export, tag, check, verify, write; includes failed attempts"),
    ]
    nodes: int
    evidence: Annotated[dict[str, int], Field(description="number of nodes by evidence")]
    auxiliary_operations_coverage: Annotated[
        float,
        Field(ge=0, le=1, description="of the nodes without direct evidence, the share that data flow placed"),
    ]
    fallback_strategy_usage: Annotated[
        dict[str, int],
        Field(description="for each pass, in order, the number of nodes that got their first scope from it"),
    ]
    tag_quality: TagQuality
    edge_cases: Annotated[tuple[str, ...], Field(description="cases found in this model that make projection hard")]
    round_trip: Annotated[RoundTrip | None, Field(description="only with verification")] = None


class Meter:
    """Measures stages; a stage that runs again adds its seconds."""

    def __init__(self) -> None:
        """Begin with nothing measured."""
        self.stages: dict[str, Stage] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure a block as a stage."""
        _reset_peak()
        start = perf_counter()
        try:
            yield
        finally:
            before = self.stages.get(name, Stage(seconds=0.0, peak_memory=0))
            self.stages[name] = Stage(
                seconds=before.seconds + perf_counter() - start, peak_memory=max(before.peak_memory, _peak())
            )


def _reset_peak() -> None:
    """Reset the peak; only Linux can (see proc(5)), so elsewhere it is the peak of the whole process."""
    try:
        _CLEAR.write_text(_RESET_PEAK)
    except OSError:
        return


def _peak() -> int:
    """Return the highest resident size in bytes since the last reset; 0 if the system does not tell it (Windows)."""
    try:
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration):
        return _peak_of_process()


def _peak_of_process() -> int:
    try:
        import resource  # which Windows does not have
    except ImportError:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class Tally:
    """Counts, while a pipeline runs, the nodes that got their first scope from each pass."""

    def __init__(self, model: WorkingModel) -> None:
        """Begin with a model of which nothing is known."""
        self.by_pass: dict[str, int] = {}
        self._model = model
        self._known = 0

    def observe(self, step: Step) -> None:
        """Count after a pass that changed only annotations."""
        if not step.changed:
            known = sum(call is not None for call in self._model.annotations.call)
            if known > self._known:
                self.by_pass[step.step.name] = known - self._known
            self._known = known


def measured(
    model: WorkingModel, meter: Meter, by_pass: dict[str, int], round_trip: RoundTrip | None = None
) -> Metrics:
    """Return the metrics of a tagged model."""
    annotations = model.annotations
    counts = Counter(word for word in annotations.evidence if word)
    indirect = sum(counts[word] for word in INDIRECT)
    absent = Counter(reason.partition(":")[0] for reason in absent_scopes(annotations, model.traced).values())
    return Metrics(
        stages=meter.stages,
        nodes=len(annotations.call),
        evidence=annotations.counts(),
        auxiliary_operations_coverage=counts[Evidence.DATAFLOW] / indirect if indirect else 1.0,
        fallback_strategy_usage=by_pass,
        tag_quality=TagQuality(
            direct=direct_share(annotations),
            merged=len(annotations.merged),
            roots=counts[Evidence.ROOT],
            absent=dict(sorted(absent.items())),
        ),
        edge_cases=tuple(edge_cases(model)),
        round_trip=round_trip,
    )


def direct_share(annotations: Annotations) -> float:
    """Return the share of nodes with evidence of their own; 1 if there are no nodes."""
    nodes = len(annotations.evidence)
    return sum(word not in INDIRECT for word in annotations.evidence) / nodes if nodes else 1.0


def edge_cases(model: WorkingModel) -> Iterator[str]:
    """Yield the names of the edge cases that a tagged model shows."""
    sidecar = model.traced
    yield from (name for name, met in TRACE_CASES.items() if sidecar and met(sidecar))
    yield from (name for name, met_in in GRAPH_CASES.items() if met_in(model))


TRACE_CASES: dict[str, Callable[[Sidecar], bool]] = {
    "repeated calls": lambda sidecar: len({call.module for call in sidecar.calls}) < len(sidecar.calls),
    "tied weights": lambda sidecar: any(weight.tied for module in sidecar.modules for weight in module.weights),
    "shared modules": lambda sidecar: any(module.aliases for module in sidecar.modules),
}
"""The edge cases that a trace shows: the name, and a function that says whether the trace shows it."""

GRAPH_CASES: dict[str, Callable[[WorkingModel], bool]] = {
    "merged nodes": lambda model: bool(model.annotations.merged),
    "modules without nodes": lambda model: bool(absent_scopes(model.annotations, model.traced)),
    "nested bodies": lambda model: any(owner != NOWHERE for owner in model.graph.owner),
    "functions": lambda model: any(model.graph.region),
    "only auxiliary operators": lambda model: all(word in INDIRECT for word in model.annotations.evidence),
}
"""The edge cases that a tagged graph shows: the name, and a function that says whether the graph shows it."""


def schema() -> dict[str, Any]:
    """Return the JSON Schema of metrics."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Metrics.model_json_schema(by_alias=True)}
