"""Rules for where scopes lie in the graph: calls keep their order, and the nodes of a scope are connected."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from mxtools.cut.surroundings import pieces
from mxtools.graph.index import NOWHERE
from mxtools.scopes.annotations import Annotations, Evidence
from mxtools.scopes.hierarchy import ROOT_CALL
from mxtools.scopes.scope import call_number
from mxtools.validate.rules import CheckedModel, Fault, Severity, rule


@rule(
    "order",
    Severity.WARNING,
    "tag again with ⟨trace⟩, or look at the node with ⟨view⟩",
    unless=("untagged", "other-model"),
)
def _order(checked: CheckedModel) -> Iterator[Fault]:
    """No call of a module reads the result of a later call."""
    graph, annotations = checked.graph, checked.annotations
    still = graph.data_independent
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
                yield Fault(f"it reads {graph.names[value]!r}, made in {scope}, called after {earlier_scope}", node)


@rule("disconnected", Severity.NOTE, "look at the module with ⟨view⟩", unless=("untagged", "other-model"))
def _disconnected(checked: CheckedModel) -> Iterator[Fault]:
    """The nodes of each scope, with the scopes below it, are connected."""
    graph, annotations = checked.graph, checked.annotations
    nodes: dict[int, set[int]] = defaultdict(set)
    for node in graph.main:
        call = annotations.call[node]
        for around in annotations.hierarchy.lineage(call) if call is not None else ():
            nodes[around].add(node)
    for call, chosen in sorted(nodes.items()):
        count = pieces(graph, chosen) if call != ROOT_CALL else 1
        if count > 1:
            reason = f"its nodes are in {count} pieces that no tensor connects"
            yield Fault(reason, scope=annotations.hierarchy.scopes[call])


@rule(
    "unknown-place",
    Severity.NOTE,
    "tag with a trace that has recorded values: ⟨record⟩",
    unless=("untagged", "other-model"),
)
def _unknown_place(checked: CheckedModel) -> Iterator[Fault]:
    """For every node, there is evidence of where it belongs."""
    unknown = [n for n, word in enumerate(checked.annotations.evidence) if word is Evidence.ROOT]
    if unknown:
        yield Fault(f"there is no evidence for {len(unknown)} nodes; this is the first", unknown[0])


def _later(annotations: Annotations, maker: int, node: int) -> tuple[int, int] | None:
    """Return the calls of a reader and of its maker if the maker's call is later; else None.

    Both are the calls just below the innermost call that contains both nodes. Without a trace, only calls of the same
    module have an order.
    """
    hierarchy = annotations.hierarchy
    maker_call, reader_call = annotations.call[maker], annotations.call[node]
    if maker_call is None or reader_call is None or maker_call == reader_call:
        return None
    if maker in annotations.merged or node in annotations.merged:
        return None
    meet = hierarchy.meet(maker_call, reader_call)
    if meet in (maker_call, reader_call):
        return None
    making, reading = hierarchy.path_below(meet, maker_call)[-1], hierarchy.path_below(meet, reader_call)[-1]
    if hierarchy.is_traced:
        return (reading, making) if making > reading else None
    (making_module, making_number), (reading_module, reading_number) = (
        call_number(hierarchy.scopes[call]) for call in (making, reading)
    )
    return (reading, making) if making_module == reading_module and making_number > reading_number else None
