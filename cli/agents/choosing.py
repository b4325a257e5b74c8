"""Reports of commands that choose: strategies, exporters, precisions; and of what there is to choose from."""

from __future__ import annotations

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from mxtools.strategies.metrics import Metrics
from mxtools.strategies.table import Priority

from .records import Axes, Figure, record


@record
class Attempt(TypedDict):
    """A strategy that was tried."""

    strategy: str
    error: str | None
    """Why it failed; null where it succeeded."""


@record
class AutoReport(TypedDict):
    """The export that succeeded, and what was tried before."""

    output_path: str
    strategy: str
    attempts: list[Attempt]
    total_operations: int
    tagged_operations: int
    """Nodes whose module is known."""
    hierarchy_nodes: int
    """Scopes that have nodes."""
    warnings: list[str]
    verified_on: list[str]
    """The kinds of inputs on which the model returns what PyTorch returns."""
    dynamic_axes: Axes
    static_because: str
    reasons: list[str]
    """Why this strategy was chosen; empty where it was named."""
    performance_metrics: Metrics | None


@record
class RecommendReport(TypedDict):
    """A strategy for a model, and why."""

    strategy: str
    priority: Priority
    confidence: float
    """The share, 0 to 1, of models on which this decision was right when it was measured."""
    reasons: list[str]
    fallbacks: list[str]
    """What to try next, in order."""
    facts: dict[str, bool]
    properties: dict[str, Any]


@record
class BenchRow(TypedDict):
    """What a strategy took; null where it failed."""

    error: str | None
    seconds: float | None
    peak_memory: int | None
    """Bytes."""
    metrics: Metrics | None


@record
class Agreement(TypedDict):
    """On how many of the traced tensors that both graphs have two strategies agree."""

    strategies: tuple[str, str]
    agreed: int
    compared: int
    differing: list[tuple[str, str]]
    """The two scopes of tensors on which they do not; each pair once."""


@record
class BenchModel(TypedDict):
    """The strategies on one model."""

    strategies: dict[str, BenchRow]
    agreement: list[Agreement]


@record
class PassOption(TypedDict):
    """An option of a pass."""

    name: str
    help: str
    required: bool


@record
class PassInfo(TypedDict):
    """A pass."""

    name: str
    help: str
    options: list[PassOption]


@record
class CacheEntry(TypedDict):
    """What the cache holds of a model with its inputs."""

    digest: str
    spec: str
    used: float
    """When it was last used, in seconds since 1970."""
    size: int
    """Bytes."""


@record
class TuneSizes(TypedDict):
    """The bytes of a model's weights."""

    before: int
    after: int


@record
class HeldBack(TypedDict):
    """The figures on inputs that the search never saw."""

    base: Figure | None
    """Of the model as it is."""
    value: Figure | None
    """Of the model that was chosen."""
    noise: Figure | None
    met: bool


@record
class TuneEvaluation(TypedDict):
    """A model that was made and judged."""

    bytes: int
    seconds: Figure | None
    """The median time of a run; null if the search was for few bytes."""
    value: Figure | None
    noise: Figure | None
    """The standard error of the value that comes from the choice of the inputs."""
    met: bool
    precisions: dict[str, str]
    """By the first node of what gets one precision; what is not here stays in float32."""
    problem: NotRequired[str]
    """Why it could not be made or run."""


@record
class TuneChoice(TypedDict):
    """What gets one precision: nodes that read the same weight."""

    scope: str
    nodes: list[str]
    precision: str
    bytes: int
    """Of its weights in float32."""
    sizes: NotRequired[dict[str, int]]
    """Bytes by precision."""
    nanoseconds: NotRequired[dict[str, int]]
    """The time that it takes alone, by precision, if the search was for a fast model."""
    own_errors: NotRequired[dict[str, Figure | None]]
    """The energy of the noise divided by that of its result, by precision, when only it is small."""
    damages: NotRequired[dict[str, Figure | None]]
    """What that does at the outputs, by precision; damages add up."""


@record
class TuneReport(TypedDict):
    """What a search for the smallest model came to."""

    schema: Literal["mxtools.tune/1"]
    target: str
    wanted: Figure | None
    """The value that the target asks."""
    met: bool
    base: Figure | None
    """The value of the model as it is."""
    value: Figure | None
    """The value of the model that was chosen, on the inputs that the search saw."""
    noise: Figure | None
    base_noise: Figure | None
    """How far two evaluations of the model as it is are apart."""
    held_back: HeldBack | None
    """Null where a function brings its own inputs."""
    bytes: TuneSizes
    evaluations: list[TuneEvaluation]
    front: list[int]
    """The evaluations of which none is both smaller and better, the smallest first."""
    chosen: int
    probes: int
    """Runs of the model on a few inputs, to measure modules."""
    exhausted: bool
    """Whether the budget ended the search."""
    interrupted: bool
    choices: list[TuneChoice]
    metrics: dict[str, dict[str, Figure | None]]
    """Numbers by scope, as `mx view --metric` shows them."""
