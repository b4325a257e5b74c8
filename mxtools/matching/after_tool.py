"""Tags after a tool: what the nodes of an earlier, tagged model say about the nodes that do their work now.

    earlier   x ─ MatMul ─m─ Add ─a─ Relu ─r─ MatMul ─n─ Add ─ y
                  one        one     act      two        two
    now       x ────── FusedGemm ──────────r─ MatMul ─n─ Add ─ y
                       act                    two        two
                       merged: one, act

The obvious way is to give the FusedGemm the scope of the earlier node with the same name or weights, which makes it
`one`. But then no node makes what `act` returned, and `act` cannot be cut out any more. So a node goes to the module
whose *output* it makes. The FusedGemm makes r, which left `act` before, so it goes to `act`. The value that left `one`
was a, which the Add made. Nothing makes a now, and the FusedGemm does the work of the Add: so `one` ends inside the
FusedGemm, and `merged` says so.

A tool also shares work that several modules did separately. Then a value leaves a module that it did not leave in the
earlier model, and its node moves out, to the lowest common ancestor of its readers.
"""

from __future__ import annotations

from mxtools.graph.index import NOWHERE
from mxtools.matching.earlier_model import EarlierModelMatch, match_earlier
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes.annotations import INDIRECT, Annotations, Evidence


def annotate_by_previous(model: WorkingModel) -> None:
    """Annotate the nodes that make the same tensors, or use the same weights, as nodes of the earlier model.

    A node goes to the module whose output it makes. Does nothing without an earlier model; raises InputError if that
    has no tags.
    """
    match = model.once(match_earlier)
    if not match or not model.previous:
        return
    model.previous.require_tagged("the earlier model")
    annotations, earlier = model.annotations, match.earlier_annotations
    for node in range(len(match.values_made)):
        twins, word = _makers(match, node), _evidence(match, node)
        if not twins and node in match.same_name:
            twins = {match.same_name[node]}
        elif not twins:
            twins, word = set(match.same_weights.get(node, ())), Evidence.PARAMETER
        known = sorted(twin for twin in twins if earlier.call[twin] is not None)
        if known:
            before = earlier.evidence[known[-1]]
            annotations.set(node, _call(match, known), before if before in INDIRECT else word)


def _makers(match: EarlierModelMatch, node: int) -> set[int]:
    """Return the earlier nodes that made a node's results; of equal values only the first, if a call returned it."""
    found = set[int]()
    for value in match.graph.writes[node]:
        made = [v for v in match.earlier_values.get(value, ()) if v in match.values_made[node]]
        twins = [match.earlier.producer[v] for v in made]
        if made and match.earlier_annotations.call[twins[0]] in match.calls_left_by_elements.get(made[0], ()):
            twins = twins[:1]
        found.update(twins)
    return found


def _call(match: EarlierModelMatch, twins: list[int]) -> int:
    """Return the call of a node that does the work of some earlier nodes.

    If these are a chain, each reading what the one before made, it is the call of the last one; otherwise the lowest
    common ancestor of all.
    """
    earlier, annotations = match.earlier, match.earlier_annotations
    calls = [call for twin in twins if (call := annotations.call[twin]) is not None]
    made = [set(earlier.writes[twin]) for twin in twins]
    is_chain = all(not values.isdisjoint(earlier.reads[twin]) for values, twin in zip(made, twins[1:], strict=False))
    return calls[-1] if is_chain else annotations.hierarchy.common(calls)


def _evidence(match: EarlierModelMatch, node: int) -> Evidence:
    """Return the evidence for a node's results: that of the first one that is known by itself."""
    found = (match.direct_evidence.get(value) for value in match.graph.writes[node])
    return next((word for word in found if word), Evidence.PREVIOUS)


def assign_fused_previous(model: WorkingModel) -> None:
    """Compare the values that leave modules with those that left them in the earlier model, if there is one.

    Nodes that several modules share now move out of them, and nodes inside which modules end are annotated as merged.
    """
    match = model.once(match_earlier)
    if match:
        _move_shared(model.annotations, match)
        _merge(model.annotations, match)
        _equal_before(model.annotations, match)


def _move_shared(annotations: Annotations, match: EarlierModelMatch) -> None:
    """Move nodes out of the calls that their values leave now and did not leave in the earlier model.

    The nodes are visited against the data flow. A reader does not count if a call ends inside of it, or if it reads
    another result of the call, because then it read something of that call before, too. Nor does a node of the tool
    between the call and the rest of its work, such as a Reshape, or a reader for which an equal call did the same.
    But a reader that was moved out of the call, because others share it, takes along what only it reads.
    """
    graph, hierarchy, outputs = match.graph, annotations.hierarchy, set(match.graph.outputs)
    serving, twins = match.earlier_annotations.serving, match.earlier_nodes
    for node in range(len(graph.nodes) - 1, -1, -1):
        own = annotations.call[node]
        if own is None or own not in match.calls_done.get(node, ()):
            continue
        call = own
        for value in graph.writes[node]:
            before = set[int]().union(
                *(match.calls_left_by_elements.get(other, ()) for other in match.earlier_values.get(value, ()))
            )
            for reader in graph.readers[value] if value not in outputs else ():
                at = annotations.call[reader]
                if at is not None and any(serving(twin, own, at) != own for twin in twins.get(node, ())):
                    continue
                common = call if at is None else hierarchy.meet(call, at)
                through = match.calls_ended if reader in match.calls_done else match.calls_led_to
                known = before | match.calls_read_from.get(reader, set()) | through.get(reader, set())
                new = [c for c in hierarchy.path_below(common, call) if c not in known]
                call = hierarchy.parent[new[-1]] if new else call
        if call != own:
            annotations.set(node, call, Evidence.DATAFLOW)


def _merge(annotations: Annotations, match: EarlierModelMatch) -> None:
    """Annotate the nodes inside which modules end with these modules."""
    merged: dict[int, set[int]] = {}
    for call, node in sorted(_ending(annotations, match) | _merged_before(match)):
        at = annotations.call[node]
        if at is not None and at != call:
            merged.setdefault(node, {at}).add(call)
    annotations.merged.update({node: tuple(sorted(calls)) for node, calls in merged.items()})


def _equal_before(annotations: Annotations, match: EarlierModelMatch) -> None:
    """Annotate the nodes that did the work of other calls too in the earlier model, and still are in their call.

    What a tool put between such a node and those calls, such as a Reshape or a quantisation, counts as equal there too.
    """
    earlier, graph = match.earlier_annotations, match.graph
    for before, calls in earlier.equal_at.items():
        node = match.node_now[before]
        if node >= 0 and annotations.call[node] == earlier.call[before]:
            annotations.equal_at[node] = calls
    within, ends = annotations.hierarchy.within, _led_to(annotations) if annotations.equal_at else {}
    for node in sorted(ends):
        makers = {maker for maker in graph.sources(node) if not graph.is_constant(maker)}
        equal = {(annotations.call[maker], annotations.equal_at.get(maker, ())) for maker in makers}
        call, others = equal.pop() if len(equal) == 1 else (None, ())
        if call is not None and others and all(any(within(at, c) for c in (call, *others)) for at in ends[node]):
            annotations.set(node, call, Evidence.DATAFLOW)
            annotations.equal_at[node] = others


def _led_to(annotations: Annotations) -> dict[int, set[int]]:
    """Return the nodes without direct evidence, each with the known calls of the nodes that it leads to."""
    graph, found = annotations.graph, dict[int, set[int]]()
    for node in reversed(graph.main):
        if annotations.evidence[node] in (None, Evidence.DATAFLOW):
            known = {at for n in graph.targets(node) if n not in found and (at := annotations.call[n]) is not None}
            found[node] = known.union(*(found[n] for n in graph.targets(node) if n in found))
    return found


def _ending(annotations: Annotations, match: EarlierModelMatch) -> set[tuple[int, int]]:
    """Return the calls of which a result is no longer made by their own nodes, each with a node that does this work.

    A result is known by its elements, because a call may return x and Reshape(x). One that depends on shapes alone does
    not count if the call makes another: it is copied to where it is read.
    """
    hierarchy, earlier = annotations.hierarchy, match.earlier
    made, ending = set[tuple[int, int]](), dict[tuple[int, int], int]()
    for value, calls in match.calls_left.items():
        elements = match.earlier_same_elements[value]
        makers = [earlier.producer[v] for v in (value, elements) if v not in earlier.constant]
        nodes = [match.node_now[n] for n in makers if n != NOWHERE and match.node_now[n] >= 0]
        at = [call for n in nodes if (call := annotations.call[n]) is not None]
        for call in calls if nodes else ():
            if any(hierarchy.within(a, call) for a in at):
                made.add((call, elements))
            else:
                ending.setdefault((call, elements), nodes[0])
    making = {call for call, _ in made}
    return {
        (call, node)
        for (call, elements), node in ending.items()
        if (call, elements) not in made and call not in match.passing_calls
        if call not in making or elements not in earlier.data_independent
    }


def _merged_before(match: EarlierModelMatch) -> set[tuple[int, int]]:
    """Return the calls that ended inside nodes of others in the earlier model, with the nodes that do it now."""
    earlier = match.earlier_annotations
    merged = ((node, call) for node, calls in earlier.merged.items() for call in calls if match.node_now[node] >= 0)
    return {
        (call, match.node_now[node])
        for node, call in merged
        if (own := earlier.call[node]) is None or not earlier.hierarchy.within(own, call)
    }
