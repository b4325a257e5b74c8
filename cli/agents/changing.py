"""Reports of commands that make or change models."""

from __future__ import annotations

from typing import NotRequired

from pydantic import with_config
from typing_extensions import TypedDict

from .records import Axes, OutputDifference, record


@record
class TraceReport(TypedDict):
    """What was traced."""

    model: str
    """The class of the model."""
    modules: int
    calls: int
    opaque: list[str]
    """ScriptModules, of whose calls PyTorch tells nothing."""


@record
class Exported(TypedDict):
    """An exporter that was tried; the last one made the file."""

    exporter: str
    error: str | None
    """Why it failed; null where it succeeded."""
    fixed: list[str]
    """Places where the model's code decided by a value: the graph has what was decided for the example inputs."""
    kept: list[str]
    """Tensors that the model carries over from run to run, which changes its results; the graph does not."""
    static: str
    """Why no axis is dynamic, although some were to be; else empty."""
    dynamic: NotRequired[Axes]
    """The dynamic axes of the file; only on the last exporter."""


@record
class Statement(TypedDict):
    """What one source says of a node."""

    source: str
    text: str
    """The words in the file."""
    scopes: list[str]
    """The scopes that it leads to; none where the trace knows no such module."""


@record
class NodeHistory(TypedDict):
    """How a node came to its scope."""

    node: str
    said: list[Statement]
    passes: list[tuple[str, str, str]]
    """Each pass that gave it a scope, with the scope and the evidence; the last one decided."""
    merged: list[str]
    """All scopes whose work it does, if there are several."""


@record
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
    unfound: NotRequired[list[str]]
    """Absent scopes that should have nodes, if there are many: the trace fits the graph badly."""
    incomplete: NotRequired[dict[str, str]]
    """Scopes that lack something in the graph: results, `1 of 2`, or an operation at an end, `without: relu of act`."""
    explained: NotRequired[list[NodeHistory]]


@record
class TagReport(Tagged):
    """The result of tagging a file."""

    renamed: dict[str, str]
    """Tensors that got back their earlier names, old to new."""


@record
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


@record
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


@record
class FoldReport(TypedDict):
    """The functions that modules became."""

    functions: list[Folded]
    left: dict[str, str]
    """Selected scopes that could not become calls of functions, each with the reason."""
    nodes: tuple[int, int]
    """Nodes of the main graph before and after."""
    verify: NotRequired[list[OutputDifference]]


@record
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


@record
class JoinReport(TypedDict):
    """What was joined."""

    models: int
    nodes: int
    """Nodes of the main graph."""
    inputs: list[str]
    outputs: list[str]
    shared: int
    """Weights that several models have, and that are stored once."""


@record
class PartRun(TypedDict):
    """A part that was run."""

    file: str
    seconds: float
    """How long that took, with loading it."""


@record
class RunPartsReport(TypedDict):
    """The parts of a split that were run."""

    runtime: str
    parts: list[PartRun]
    outputs: list[str]
    verify: NotRequired[list[OutputDifference]]


@record
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
