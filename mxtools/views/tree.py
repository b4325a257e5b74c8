"""The module tree of a tagged model: what each module call contains, including all calls below it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from html import escape
from typing import Any, Protocol, Self, TypeVar

from mxtools.costs.activations import Peak
from mxtools.costs.costs import Costs
from mxtools.costs.module_peaks import module_peaks
from mxtools.scopes.annotations import Annotations
from mxtools.scopes.parameters import parameter_sizes, stored_bytes, stored_tensors
from mxtools.scopes.scope import ROOT, call_number, list_index
from mxtools.scopes.tags import class_of


class Key(StrEnum):
    """What to sort siblings by."""

    NODES = "nodes"
    PARAMETERS = "parameters"
    BYTES = "bytes"
    MULTIPLY_ADDS = "multiply-adds"
    ACTIVATIONS = "activations"


class TreeItem(Protocol):
    """A call of a module in a tree of calls."""

    @property
    def scope(self) -> str:
        """Its scope."""

    @property
    def tag(self) -> str:
        """Its tag."""

    @property
    def children(self) -> Sequence[Self]:
        """The calls directly below it."""


class FoldableItem(TreeItem, Protocol):
    """A call that may stand for equal siblings too."""

    @property
    def equal(self) -> tuple[str, ...]:
        """The scopes of the siblings after it that it also stands for."""


Item = TypeVar("Item", bound=TreeItem)
Foldable = TypeVar("Foldable", bound=FoldableItem)


@dataclass
class Branch:
    """One call of a module; the numbers include everything below it.

    Attributes: `nodes`, also by operator and by evidence; `parameters`, the elements of the parameters that the nodes
    use; `bytes`, those of all constants that they use, each counted once; `multiply_adds`; `uncounted`, the products
    whose multiply-adds are not known; `activations`, the most bytes of values that are live at once while it runs;
    `unsized`, the values that are not in it because their size is not known; `equal`, the scopes of siblings after it
    with the same content (see `folded`).
    """

    scope: str
    tag: str
    nodes: int = 0
    parameters: int = 0
    bytes: int = 0
    multiply_adds: int = 0
    uncounted: int = 0
    activations: int = 0
    unsized: int = 0
    operators: Counter[str] = field(default_factory=Counter)
    evidence: Counter[str] = field(default_factory=Counter)
    children: list[Branch] = field(default_factory=list, repr=False)
    equal: tuple[str, ...] = ()

    @property
    def class_name(self) -> str:
        """The module's class, from the tag."""
        return class_of(self.tag)

    def _repr_html_(self) -> str:
        """Return the branch as HTML that opens level by level; notebooks show it."""
        return tree_html(self)

    def row(self) -> dict[str, Any]:
        """Return the branch, without its children, as plain data."""
        return {
            "scope": self.scope,
            "tag": self.tag,
            "class": self.class_name,
            "nodes": self.nodes,
            "parameters": self.parameters,
            "bytes": self.bytes,
            "multiply_adds": self.multiply_adds,
            "uncounted": self.uncounted,
            "activations": self.activations,
            "unsized": self.unsized,
            "evidence": dict(self.evidence.most_common()),
            "operators": dict(sorted(self.operators.items())),
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the branch, with its children, as plain data."""
        return {**self.row(), "children": [child.to_dict() for child in self.children]}


def tree(annotations: Annotations, costs: Costs | None = None, chosen: Collection[int] | None = None) -> Branch:
    """Return the tree of the calls that have nodes; siblings are in the order of their first nodes besides constants.

    `costs` has multiply-adds and activations, if they are known; without `chosen`, all nodes count.
    """
    products = costs.multiply_adds if costs else {}
    graph, hierarchy = annotations.graph, annotations.hierarchy
    stored = stored_tensors(graph)
    elements = parameter_sizes(annotations, stored)
    branches: dict[int, Branch] = {0: Branch(ROOT, hierarchy.tags[0])}
    used: dict[int, set[int]] = {}
    nodes = range(len(graph.nodes)) if chosen is None else sorted(chosen)
    for node in sorted(nodes, key=graph.is_constant):
        call = annotations.call[node]
        if call is None:
            continue
        proto, weights = graph.nodes[node], [value for value in graph.reads[node] if value in stored]
        count = products.get(node)
        for around in reversed(list(hierarchy.lineage(call))):
            if around not in branches:
                branches[around] = Branch(hierarchy.scopes[around], hierarchy.tags[around])
                branches[hierarchy.parent[around]].children.append(branches[around])
            branch = branches[around]
            branch.nodes += 1
            branch.operators[proto.op_type] += 1
            branch.evidence[str(annotations.evidence[node])] += 1
            branch.multiply_adds += count or 0
            branch.uncounted += count is None and graph.operators[node].is_product
            used.setdefault(around, set()).update(weights)
    for call, values in used.items():
        branches[call].parameters = sum(elements.get(value, 0) for value in values)
        branches[call].bytes = sum(stored_bytes(stored[value]) for value in values)
    peaks = module_peaks(annotations, costs.size, chosen) if costs else {}
    for call, branch in branches.items():
        peak = peaks.get(call, Peak(0, 0))
        branch.activations, branch.unsized = peak.bytes, peak.unsized
    return branches[0]


def sorted_by(branch: Item, key: str) -> Item:
    """Return a copy with the siblings on all levels sorted, the largest first; equal ones keep their order.

    `key` is the name of an attribute of the tree's items, such as a `Key` for a `Branch`.
    """
    name = key.replace("-", "_")
    children = sorted(branch.children, key=lambda child: -float(getattr(child, name)))
    return replace(branch, children=[sorted_by(child, key) for child in children])  # type: ignore[type-var]  # a protocol cannot say that it is a dataclass


def folded(branch: Foldable, content: Callable[[Foldable], object] | None = None) -> Foldable:
    """Return a copy that shows, on all levels, only the first of adjacent siblings with the same content.

    Only modules of one list and calls of one module count as siblings here; modules with names of their own all stay.
    `content` returns the content of a call besides the calls below it; by default it is what `tree` counts.
    """
    held = content or _figures
    kept: list[Foldable] = []
    for child in (folded(child, held) for child in branch.children):
        if kept and _list(kept[-1]) == _list(child) and _content(kept[-1], held) == _content(child, held):
            kept[-1] = replace(kept[-1], equal=(*kept[-1].equal, child.scope))  # type: ignore[type-var]  # a protocol cannot say that it is a dataclass
        else:
            kept.append(child)
    return replace(branch, children=kept)  # type: ignore[type-var]  # a protocol cannot say that it is a dataclass


def number(scope: str) -> tuple[str, int]:
    """Return the list that a module is in and its number there, else the module and the number of its call."""
    first, count = call_number(scope)
    around, _, name = first.rpartition(".")
    index = None if count else list_index(name)
    return (f"{around}.{name}", count) if index is None else (around, index)


def _list(branch: FoldableItem) -> str:
    return number(branch.scope)[0]


def _content(branch: Any, held: Callable[[Any], object]) -> tuple[Any, ...]:  # noqa: ANN401
    """Return the content of a branch, without its own name but with the names of its children."""
    below = [
        ([scope.removeprefix(branch.scope) for scope in (child.scope, *child.equal)], _content(child, held))
        for child in branch.children
    ]
    return class_of(branch.tag), held(branch), below


def _figures(branch: Any) -> tuple[Any, ...]:  # noqa: ANN401
    figures = branch.nodes, branch.parameters, branch.bytes, branch.multiply_adds, branch.uncounted
    return figures, branch.operators, branch.evidence


def tree_html(branch: Branch) -> str:
    """Return a branch as HTML: one element for each call, which opens to show its calls; the first level is open."""
    return f'<div style="font-family:monospace">{_element(branch, is_open=True)}</div>'


def _element(branch: Branch, is_open: bool = False) -> str:
    name = escape(branch.scope.rpartition(".")[2] or ".")
    label = f"{name} <b>{escape(branch.class_name)}</b> {branch.nodes} nodes, {branch.parameters:,} parameters"
    if not branch.children:
        return f'<div style="margin-left:1em">{label}</div>'
    below = "".join(map(_element, branch.children))
    return f'<details style="margin-left:1em"{" open" if is_open else ""}><summary>{label}</summary>{below}</details>'
