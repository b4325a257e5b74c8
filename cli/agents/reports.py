"""The shape of what each command writes to stdout with `--json`, and of the error that it writes to stderr.

`docs/json/*.schema.json` are generated from the types below. Commands do not import this file: they write plain data,
and the tests hold every report that a test makes against the schema of its command.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NotRequired

from pydantic import TypeAdapter, with_config
from typing_extensions import TypedDict

from mxtools.profile import report
from mxtools.split import manifest
from mxtools.strategies.metrics import Metrics
from mxtools.strategies.table import Priority, Strategy
from mxtools.validate.rules import Severity

_record = with_config(extra="forbid", use_attribute_docstrings=True)

Figure = float | Literal["Infinity", "-Infinity"]
"""A number; infinities, which JSON lacks, are texts."""
Axes = dict[str, dict[str, str]]
"""The symbol of each dynamic axis, by input and by the number of the axis."""


@_record
class Distance(TypedDict):
    """How far one tensor is from another."""

    max_abs: Figure
    """The largest difference."""
    relative: Figure
    """The largest difference, divided by the largest value."""
    cosine: Figure
    """The cosine of the angle between them."""
    sqnr_db: Figure
    """The ratio of signal to noise, in decibels."""
    not_finite: NotRequired[int]
    """How many elements are infinite or not a number, but should be finite."""
    largest: NotRequired[Figure]
    """The largest absolute value that is right."""
    histogram: NotRequired[list[int]]
    """How many elements differ by less than 1e-8 of that, by less than 1e-7, and so on; the last, by 1 or more."""


@_record
class OutputDifference(TypedDict):
    """How far an output is from what the whole model computes."""

    output: str
    max_abs: float
    max_rel: float
    """The largest difference, divided by the largest value."""


@_record
class TraceReport(TypedDict):
    """What was traced."""

    model: str
    """The class of the model."""
    modules: int
    calls: int
    opaque: list[str]
    """ScriptModules, of whose calls PyTorch tells nothing."""


@_record
class Exported(TypedDict):
    """An exporter that was tried; the last one made the file."""

    exporter: str
    error: str | None
    """Why it failed; null where it succeeded."""
    fixed: list[str]
    """Places where the model's code decided by a value: the graph has what was decided for the example inputs."""
    static: str
    """Why no axis is dynamic, although some were to be; else empty."""
    dynamic: NotRequired[Axes]
    """The dynamic axes of the file; only on the last exporter."""


@_record
class Statement(TypedDict):
    """What one source says of a node."""

    source: str
    text: str
    """The words in the file."""
    scopes: list[str]
    """The scopes that it leads to; none where the trace knows no such module."""


@_record
class NodeHistory(TypedDict):
    """How a node came to its scope."""

    node: str
    said: list[Statement]
    passes: list[tuple[str, str, str]]
    """Each pass that gave it a scope, with the scope and the evidence; the last one decided."""
    merged: list[str]
    """All scopes whose work it does, if there are several."""


@_record
class Tagged(TypedDict):
    """The result of tagging."""

    nodes: int
    evidence: dict[str, int]
    """Nodes by the word of their evidence."""
    merged: int
    """Nodes that do the work of several modules."""
    absent: dict[str, str]
    """Scopes of the trace that no node has, each with the reason."""
    disagreements: int
    """Nodes whose scope is none of those that the exporter names."""
    foreign: dict[str, int]
    """Modules that nodes name and the trace lacks, with the number of nodes."""
    part: NotRequired[str]
    """The module that the graph is an export of, if it is not the whole model."""
    explained: NotRequired[list[NodeHistory]]


@_record
class TagReport(Tagged):
    """The result of tagging a file."""

    renamed: dict[str, str]
    """Tensors that got back their earlier names, old to new."""


@_record
class FilterReport(TypedDict):
    """What was cut out."""

    nodes: int
    inputs: list[str]
    outputs: list[str]
    pieces: int
    """How many parts of the selection no tensor connects."""
    verify: NotRequired[list[OutputDifference]]
    quantised: NotRequired[list[str]]
    """Outputs that are quantised numbers: the node that makes them has the scale and the zero point."""


@_record
class GraftReport(TypedDict):
    """What was put back."""

    removed: int
    added: int
    kept: int
    renamed: dict[str, str]
    """Values of the part that had to be renamed, old to new."""
    verify: NotRequired[list[OutputDifference]]


Folded = TypedDict(
    "Folded",
    {
        "name": str,
        "class": str,
        "scopes": list[str],
        "nodes": int,
        "inputs": int,
        "outputs": int,
        "attributes": list[str],
    },
)
"""A function that stands for modules: the class and the scopes of these, and what it has, and takes from its calls."""


@_record
class FoldReport(TypedDict):
    """The functions that modules became."""

    functions: list[Folded]
    left: dict[str, str]
    """Selected scopes that could not become calls of functions, each with the reason."""
    nodes: tuple[int, int]
    """Nodes of the main graph before and after."""
    verify: NotRequired[list[OutputDifference]]


@_record
class UnfoldReport(TypedDict):
    """The calls that became nodes again."""

    calls: int
    functions: list[str]
    """Functions that are gone, since nothing calls them."""
    left: dict[str, str]
    """Functions that could not be put in the place of their calls, each with the reason."""
    nodes: tuple[int, int]
    """Nodes of the main graph before and after."""
    verify: NotRequired[list[OutputDifference]]


@_record
class JoinReport(TypedDict):
    """What was joined."""

    models: int
    nodes: int
    """Nodes of the main graph."""
    inputs: list[str]
    outputs: list[str]
    shared: int
    """Weights that several models have, and that are stored once."""


@_record
class PartRun(TypedDict):
    """A part that was run."""

    file: str
    seconds: float
    """How long that took, with loading it."""


@_record
class RunPartsReport(TypedDict):
    """The parts of a split that were run."""

    runtime: str
    parts: list[PartRun]
    outputs: list[str]
    verify: NotRequired[list[OutputDifference]]


@_record
class NamesReport(TypedDict):
    """Which tensors got back their earlier names."""

    renamed: dict[str, str]


@with_config(extra="allow", use_attribute_docstrings=True)
class RunReport(TypedDict):
    """The reports of the passes by kind; further ones of a kind are called `tag@1`, `tag@2`.

    Passes of other packages may report other kinds.
    """

    tag: NotRequired[Tagged]
    filter: NotRequired[FilterReport]
    graft: NotRequired[GraftReport]
    fold: NotRequired[FoldReport]
    unfold: NotRequired[UnfoldReport]
    names: NotRequired[NamesReport]


_Class = TypedDict("_Class", {"class": str})  # a keyword of Python


@_record
class Branch(_Class):
    """A call of a module; its numbers include everything below it."""

    scope: str
    tag: str
    nodes: int
    parameters: int
    """Elements of the parameters that its nodes use."""
    bytes: int
    """Bytes of all constants that its nodes use, each once."""
    multiply_adds: int
    uncounted: int
    """Products whose multiply-adds are not known."""
    activations: int
    """The most bytes of values that are live at once while it runs."""
    unsized: int
    """Values that are not in these, as their size is not known."""
    evidence: dict[str, int]
    operators: dict[str, int]
    children: list[Branch]


@_record
class ViewReport(TypedDict):
    """What was drawn."""

    files: list[str]
    scopes: int
    nodes: int
    metrics: list[str]


@_record
class Change(TypedDict):
    """Something in the first model and what is in its place in the second; null is nothing."""

    name: str
    before: str | None
    after: str | None


@_record
class ComparedTensor(Distance):
    """A tensor at the boundary of a module: its names in both models, and how far they are apart."""

    tensor: str
    other: str


@_record
class ComparedModule(TypedDict):
    """A module of either model."""

    scope: str
    tag: str
    differs: list[Literal["presence", "nodes", "weights", "inputs", "numbers"]]
    """What differs; empty where nothing does."""
    only_in: NotRequired[Literal["A", "B"]]
    reason: NotRequired[str]
    """Why the other model lacks it, where that is known."""
    nodes: tuple[int, int]
    operators: dict[str, tuple[int, int]]
    """Operators whose numbers differ, in both models."""
    rewired: bool
    """Whether nodes have other attributes or are connected otherwise."""
    weights: list[Change]
    inputs: list[Change]
    numbers: list[ComparedTensor]


@_record
class CompareReport(TypedDict):
    """How two models differ."""

    differ: bool
    tolerance: float
    interface: list[Change]
    """Inputs and outputs of the models that differ."""
    modules: list[ComparedModule]


@_record
class CheckedOutput(Distance):
    """An output of a call: the part of the module's result, the tensor, and how far it is from PyTorch's."""

    name: str
    tensor: str


@_record
class CheckedCall(TypedDict):
    """A call of a module."""

    scope: str
    tag: str
    outputs: list[CheckedOutput]
    own: NotRequired[Distance]
    """How far the module is off on its own, when it is given what PyTorch's was given."""
    mean_relative_l2: NotRequired[Figure]
    """The mean of its relative L2 errors, if there are several sets of inputs; all else is the worst of them."""
    reason: NotRequired[str]
    """Why it was not compared, or not on its own."""


@_record
class VerifyReport(TypedDict):
    """What each module of the graph returns, against what PyTorch's, or another graph's, returned."""

    metric: str
    """What is an error."""
    tolerance: float
    """The largest error that counts as right; the smallest cosine, or SQNR in dB."""
    tolerances: NotRequired[dict[str, float]]
    """Others, by class."""
    runtime: str
    """What ran the graph."""
    first: str | None
    """The first call that is wrong."""
    untagged: int
    """Nodes without a scope, which were given their neighbours'."""
    culprits: NotRequired[list[str]]
    """The calls that are wrong on their own; with --isolate."""
    noisiest: NotRequired[str | None]
    """The innermost call with the lowest SQNR on its own; with --isolate."""
    modules: list[CheckedCall]


@_record
class BisectReport(TypedDict):
    """The smallest module that is wrong when it runs alone; with --bisect."""

    metric: str
    """What is an error."""
    tolerance: float
    """The largest error that counts as right; the smallest cosine, or SQNR in dB."""
    tolerances: NotRequired[dict[str, float]]
    """Others, by class."""
    runtime: str
    """What ran the parts."""
    wrong: str | None
    """Its scope; null if the whole model is right."""
    own: NotRequired[Distance]
    """Its error."""
    parts: int
    """How many parts were run."""


@_record
class RunValuesReport(TypedDict):
    """What was kept of a run."""

    runtime: str
    tensors: int


@_record
class Finding(TypedDict):
    """A fault."""

    rule: str
    severity: Severity
    node: NotRequired[str]
    operator: NotRequired[str]
    scope: NotRequired[str]
    reason: str
    remedy: str


@_record
class MendedFinding(Finding):
    """A fault that was repaired."""

    done: str


@_record
class ValidateReport(TypedDict):
    """What is wrong with a file."""

    model: str
    counts: dict[str, int]
    """Findings by severity."""
    findings: list[Finding]
    mended: list[MendedFinding]


@_record
class Attempt(TypedDict):
    """A strategy that was tried."""

    strategy: str
    error: str | None
    """Why it failed; null where it succeeded."""


@_record
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


@_record
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


@_record
class BenchRow(TypedDict):
    """What a strategy took; null where it failed."""

    error: str | None
    seconds: float | None
    peak_memory: int | None
    """Bytes."""
    metrics: Metrics | None


@_record
class Agreement(TypedDict):
    """On how many of the traced tensors that both graphs have two strategies agree."""

    strategies: tuple[str, str]
    agreed: int
    compared: int
    differing: list[tuple[str, str]]
    """The two scopes of tensors on which they do not; each pair once."""


@_record
class BenchModel(TypedDict):
    """The strategies on one model."""

    strategies: dict[str, BenchRow]
    agreement: list[Agreement]


@_record
class PassOption(TypedDict):
    """An option of a pass."""

    name: str
    help: str
    required: bool


@_record
class PassInfo(TypedDict):
    """A pass."""

    name: str
    help: str
    options: list[PassOption]


@_record
class CacheEntry(TypedDict):
    """What the cache holds of a model with its inputs."""

    digest: str
    spec: str
    used: float
    """When it was last used, in seconds since 1970."""
    size: int
    """Bytes."""


@_record
class TuneSizes(TypedDict):
    """The bytes of a model's weights."""

    before: int
    after: int


@_record
class HeldBack(TypedDict):
    """The figures on inputs that the search never saw."""

    base: Figure | None
    """Of the model as it is."""
    value: Figure | None
    """Of the model that was chosen."""
    noise: Figure | None
    met: bool


@_record
class TuneEvaluation(TypedDict):
    """A model that was made and judged."""

    bytes: int
    value: Figure | None
    noise: Figure | None
    """The standard error of the value that comes from the choice of the inputs."""
    met: bool
    precisions: dict[str, str]
    """By the first node of what gets one precision; what is not here stays in float32."""
    problem: NotRequired[str]
    """Why it could not be made or run."""


@_record
class TuneChoice(TypedDict):
    """What gets one precision: nodes that read the same weight."""

    scope: str
    nodes: list[str]
    precision: str
    bytes: int
    """Of its weights in float32."""
    sizes: NotRequired[dict[str, int]]
    """Bytes by precision."""
    own_errors: NotRequired[dict[str, Figure | None]]
    """The energy of the noise divided by that of its result, by precision, when only it is small."""
    damages: NotRequired[dict[str, Figure | None]]
    """What that does at the outputs, by precision; damages add up."""


@_record
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


@_record
class Failure(TypedDict):
    """Why a command failed."""

    command: str
    """The command without `mx`; empty where the command line names none."""
    status: int
    """The exit status."""
    problem: str
    """What is wrong and where."""
    remedy: str
    """What to do; empty where there is no advice."""


@_record
class ErrorReport(TypedDict):
    """The last line on stderr of a command that fails with `--json`."""

    error: Failure


def _schema(type_: Any) -> dict[str, Any]:
    found = TypeAdapter(type_).json_schema(by_alias=True, mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found}


def file_of(name: str) -> str:
    """Return the file of a schema in `docs/`."""
    return f"json/{name}.schema.json" if name in REPORTS else f"{name}.schema.json"


REPORTS: dict[str, Any] = {
    "trace": TraceReport,
    "export": list[Exported],
    "tag": TagReport,
    "auto": AutoReport,
    "tree": Branch,
    "view": ViewReport,
    "filter": FilterReport,
    "graft": GraftReport,
    "run-parts": RunPartsReport,
    "join": JoinReport,
    "fold": FoldReport,
    "unfold": UnfoldReport,
    "verify": VerifyReport | BisectReport,
    "run-values": RunValuesReport,
    "compare": CompareReport,
    "validate": ValidateReport | list[ValidateReport],  # a list where there are several models
    "wrap": TagReport,
    "run": RunReport,
    "recommend": RecommendReport,
    "bench": dict[str, BenchModel],
    "strategies": dict[str, Strategy],
    "passes": list[PassInfo],
    "cache": list[CacheEntry],
    "tune": TuneReport,
    "error": ErrorReport,
}
"""The type of each command's report, and of the error; those that commands read too are defined where they are read."""
SCHEMAS: dict[str, Callable[[], dict[str, Any]]] = {
    **{name: partial(_schema, type_) for name, type_ in REPORTS.items()},
    "profile": report.schema,
    "split": manifest.schema,
}
"""What makes the JSON Schema of each."""
