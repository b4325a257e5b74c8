"""Reports of commands that look at models and check them."""

from __future__ import annotations

from typing import Literal, NotRequired

from typing_extensions import TypedDict

from mxtools.validate.rules import Severity

from .records import Distance, Figure, record

_Class = TypedDict("_Class", {"class": str})  # a keyword of Python


@record
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


@record
class ViewReport(TypedDict):
    """What was drawn."""

    files: list[str]
    scopes: int
    nodes: int
    metrics: list[str]


@record
class Change(TypedDict):
    """Something in the first model and what is in its place in the second; null is nothing."""

    name: str
    before: str | None
    after: str | None


@record
class ComparedTensor(Distance):
    """A tensor at the boundary of a module: its names in both models, and how far they are apart."""

    tensor: str
    other: str


@record
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


@record
class CompareReport(TypedDict):
    """How two models differ."""

    differ: bool
    tolerance: float
    interface: list[Change]
    """Inputs and outputs of the models that differ."""
    modules: list[ComparedModule]


@record
class CheckedOutput(Distance):
    """An output of a call: the part of the module's result, the tensor, and how far it is from PyTorch's."""

    name: str
    tensor: str


@record
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


@record
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


@record
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


@record
class CutCall(TypedDict):
    """What became of a module that was cut out."""

    scope: str
    word: Literal["exact", "extra", "bad", "missing", "gone"]
    reason: str
    """Why it is not exact."""


@record
class RoundTripReport(TypedDict):
    """How many modules, cut out, return what PyTorch's returned; with --round-trip."""

    round_trip: dict[str, int]
    """Modules by what became of them."""
    rate: float
    """The share of those that are exact, without those that are gone."""
    calls: list[CutCall]


@record
class RunValuesReport(TypedDict):
    """What was kept of a run."""

    runtime: str
    tensors: int


@record
class Finding(TypedDict):
    """A fault."""

    rule: str
    severity: Severity
    node: NotRequired[str]
    operator: NotRequired[str]
    scope: NotRequired[str]
    reason: str
    remedy: str


@record
class MendedFinding(Finding):
    """A fault that was repaired."""

    done: str


@record
class ValidateReport(TypedDict):
    """What is wrong with a file."""

    model: str
    counts: dict[str, int]
    """Findings by severity."""
    findings: list[Finding]
    mended: list[MendedFinding]
