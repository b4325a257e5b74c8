"""Tags after a tool: what nodes of an earlier, tagged model say of the nodes that do their work now."""

from __future__ import annotations

from mxtools.graph.index import NOWHERE
from mxtools.matching.earlier_model import EarlierModelMatch, match_earlier
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes.annotations import INDIRECT, Annotations, Evidence


def annotate_by_previous(model: WorkingModel) -> None:
    """Annotate the nodes that make what a node of the earlier model made, or use the weights that one used.

    A node goes to the module whose output it makes. Without an earlier model nothing is done; raises InputError
    where it has no tags.
    """
    match = model.once(match_earlier)
    if not match or not model.previous:
        return
    model.previous.require_tagged("the earlier model")
    annotations, was = model.annotations, match.earlier_annotations
    for node in range(len(match.values_made)):
        twins, word = _makers(match, node), _evidence(match, node)
        if not twins and node in match.same_name:
            twins = {match.same_name[node]}
        elif not twins:
            twins, word = set(match.same_weights.get(node, ())), Evidence.PARAMETER
        known = sorted(twin for twin in twins if was.call[twin] is not None)
        if known:
            before = was.evidence[known[-1]]
            annotations.set(node, _call(match, known), before if before in INDIRECT else word)


def _makers(match: EarlierModelMatch, node: int) -> set[int]:
    """Give the earlier nodes that made what a node makes; of equal values the first alone if its module returned it."""
    found = set[int]()
    for value in match.graph.writes[node]:
        made = [v for v in match.earlier_values.get(value, ()) if v in match.values_made[node]]
        twins = [match.earlier.producer[v] for v in made]
        is_returned = bool(made) and match.earlier_annotations.call[twins[0]] in match.calls_left_by_elements.get(made[0], ())
        found.update(twins[:1] if is_returned else twins)
    return found


def _call(match: EarlierModelMatch, twins: list[int]) -> int:
    """Give the call of a node that does the work of some earlier nodes: that of the last, if it works on the others'.

    Else their lowest common ancestor.
    """
    earlier, was = match.earlier, match.earlier_annotations
    calls = [call for twin in twins if (call := was.call[twin]) is not None]
    made = [set(earlier.writes[twin]) for twin in twins]
    follow = all(not a.isdisjoint(earlier.reads[twin]) for a, twin in zip(made, twins[1:], strict=False))
    return calls[-1] if follow else was.hierarchy.common(calls)


def _evidence(match: EarlierModelMatch, node: int) -> Evidence:
    """Give the evidence for what a node makes."""
    found = (match.direct_evidence.get(value) for value in match.graph.writes[node])
    return next((word for word in found if word), Evidence.PREVIOUS)


def assign_fused_previous(model: WorkingModel) -> None:
    """Compare the tensors that leave modules with those that left them in the earlier model, if there is one."""
    match = model.once(match_earlier)
    if match:
        _move_shared(model.annotations, match)
        _merge(model.annotations, match)


def _move_shared(annotations: Annotations, match: EarlierModelMatch) -> None:
    """Move nodes, against the data flow, out of the calls that their values did not leave before and leave now.

    To a node that does work of a call, or reads what another value of it gave, something of that call came before.
    """
    graph, hierarchy, outputs = match.graph, annotations.hierarchy, set(match.graph.outputs)
    for node in range(len(graph.nodes) - 1, -1, -1):
        call = annotations.call[node]
        if call is None or call not in match.calls_done.get(node, ()):
            continue
        for value in graph.writes[node]:
            before = set[int]().union(*(match.calls_left_by_elements.get(other, ()) for other in match.earlier_values.get(value, ())))
            for reader in graph.readers[value] if value not in outputs else ():
                at = annotations.call[reader]
                common = call if at is None else hierarchy.meet(call, at)
                known = before | match.calls_read_from.get(reader, set()) | match.calls_done.get(reader, set())
                new = [c for c in hierarchy.path_below(common, call) if c not in known]
                call = hierarchy.parent[new[-1]] if new else call
        if call != annotations.call[node]:
            annotations.set(node, call, Evidence.DATAFLOW)


def _merge(annotations: Annotations, match: EarlierModelMatch) -> None:
    """Say of nodes which modules end inside them."""
    merged: dict[int, set[int]] = {}
    for call, host in (_ending(annotations, match) | _merged_before(match)).items():
        at = annotations.call[host]
        if at is not None and at != call:
            merged.setdefault(host, {at}).add(call)
    annotations.merged.update({host: tuple(sorted(calls)) for host, calls in merged.items()})


def _ending(annotations: Annotations, match: EarlierModelMatch) -> dict[int, int]:
    """Give the calls of which no node makes what left them before, with the node that does that work."""
    hierarchy, earlier = annotations.hierarchy, match.earlier
    made, hosts = set[int](), dict[int, int]()
    for value, calls in match.calls_left.items():
        makers = [earlier.producer[v] for v in (value, match.earlier_same_elements[value]) if v not in earlier.constant]
        nodes = [match.node_now[n] for n in makers if n != NOWHERE and match.node_now[n] >= 0]
        at = [call for n in nodes if (call := annotations.call[n]) is not None]
        for call in calls if nodes else ():
            if any(hierarchy.within(a, call) for a in at):
                made.add(call)
            else:
                hosts.setdefault(call, nodes[0])
    return {call: host for call, host in hosts.items() if call not in made and call not in match.passing_calls}


def _merged_before(match: EarlierModelMatch) -> dict[int, int]:
    """Give the calls that ended inside nodes of others before, with the nodes that do the work of these."""
    hierarchy, was = match.earlier_annotations.hierarchy, match.earlier_annotations
    merged = ((node, call) for node, calls in was.merged.items() for call in calls if match.node_now[node] >= 0)
    return {
        call: match.node_now[node]
        for node, call in merged
        if (own := was.call[node]) is None or not hierarchy.within(own, call)
    }
