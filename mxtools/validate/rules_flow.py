"""Rules for where scopes stand in the graph: calls keep their order, and what has one scope hangs together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from mxtools.cut.surroundings import pieces
from mxtools.graph.index import NOWHERE
from mxtools.scopes.annotations import Annotations
from mxtools.scopes.hierarchy import ROOT_CALL
from mxtools.validate.rules import CheckedModel, Fault, Severity, rule


@rule(
    "order",
    Severity.WARNING,
    "tag again with --trace, or look at the node with `mx view`",
    unless=("untagged", "other-model"),
)
def _order(checked: CheckedModel) -> Iterator[Fault]:
    """No call of a module works on what a later call made."""
    graph, annotations = checked.graph, checked.annotations
    still = graph.constant | graph.shape_derived(graph.constant)
    seen: set[tuple[int, int]] = set()
    for node, call in enumerate(annotations.call):
        for value in graph.reads[node]:
            maker = graph.producer[value]
            if maker == NOWHERE or value in still or call is None:
                continue
            later = _later(annotations, maker, node)
            if later and later not in seen:
                seen.add(later)
                earlier_scope, scope = (annotations.hierarchy.scopes[c] for c in later)
                yield Fault(f"it works on {graph.names[value]!r}, made in {scope}, called after {earlier_scope}", node)


@rule("disconnected", Severity.NOTE, "look at the module with `mx view`", unless=("untagged", "other-model"))
def _disconnected(checked: CheckedModel) -> Iterator[Fault]:
    """The nodes of each scope, and those below it, are connected."""
    graph, annotations = checked.graph, checked.annotations
    nodes: dict[int, set[int]] = defaultdict(set)
    for node in graph.main:
        call = annotations.call[node]
        for around in annotations.hierarchy.lineage(call) if call is not None else ():
            nodes[around].add(node)
    for call, chosen in sorted(nodes.items()):
        count = pieces(graph, chosen) if call != ROOT_CALL else 1
        if count > 1:
            reason = f"its nodes are in {count} pieces that no tensor of it connects"
            yield Fault(reason, scope=annotations.hierarchy.scopes[call])


@rule(
    "unknown-place",
    Severity.NOTE,
    "tag with a trace that has values: mx trace --record",
    unless=("untagged", "other-model"),
)
def _unknown_place(checked: CheckedModel) -> Iterator[Fault]:
    """Something is known of every node."""
    unknown = [n for n, word in enumerate(checked.annotations.evidence) if word == "root"]
    if unknown:
        yield Fault(f"nothing is known of {len(unknown)} nodes, this is the first", unknown[0])


def _later(annotations: Annotations, maker: int, node: int) -> tuple[int, int] | None:
    """Give the calls of a reader and of its maker, just below what holds both, where the maker's comes later.

    Without a trace only the calls of one module have an order.
    """
    hierarchy = annotations.hierarchy
    made, read = annotations.call[maker], annotations.call[node]
    if made is None or read is None or made == read or maker in annotations.merged or node in annotations.merged:
        return None
    meet = hierarchy.meet(made, read)
    if meet in (made, read):
        return None
    after, before = hierarchy.below(meet, made)[-1], hierarchy.below(meet, read)[-1]
    if hierarchy.is_traced:
        return (before, after) if after > before else None
    (name, count), (other, first) = (_numbered(hierarchy.scopes[call]) for call in (after, before))
    return (before, after) if name == other and count > first else None


def _numbered(scope: str) -> tuple[str, int]:
    """Divide a scope into the module's and the number of its call."""
    around, dot, last = scope.rpartition(".")
    name, _, count = last.partition("@")
    return around + dot + name, int(count or 0)
