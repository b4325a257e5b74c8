"""Evidence from recorded values: a node lies in a module if it lies between that module's inputs and outputs.

    x ─ Relu ─a─ Exp ─b─ Neg ─c─ Add ─ Abs ─ y              the trace: `block` was given a and returned c
              └────────────────a─┘

The graph runs once on the recorded inputs. Its values a and c turn out to equal what `block` was given and returned.
The obvious rule, that a node belongs to the module that returned its value, finds the Neg but not the Exp: no module
returned b. So the search goes backwards from c, through all values that no call knows, and stops at the values that
existed before `block` began: at a. Exp and Neg lie in `block`; the other nodes lie only between x and y, in the root.

The search stops at *every* value that is older than the call, not only at its inputs. A module also reads values that
nobody passed to it, such as a mask that another module keeps, and the search must not run through these into the other
module.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Collection, Mapping
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

from mxtools.errors import InputError
from mxtools.evidence.calls.index import Candidates
from mxtools.evidence.calls.placement import Narrow
from mxtools.evidence.named_values import named_matches
from mxtools.graph.index import NOWHERE
from mxtools.graph.walk import nodes_behind
from mxtools.matching.traced_values import recorded_matches
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes.annotations import Evidence
from mxtools.traces.traced_calls import call_times, first_equals, tensors_entering, used_results

if TYPE_CHECKING:
    from mxtools.traces.sidecar import Sidecar


def annotate_by_values(model: WorkingModel) -> None:
    """Run the graph on the recorded inputs and annotate the nodes that have no direct evidence.

    Without recorded values, names that count operations say what the values are. Does nothing without a trace. If the
    graph does not run, since it has operators of another runtime, the other evidence must do, with a warning. Raises
    InputError if there is none.
    """
    graph, annotations = model.graph, model.annotations
    sidecar = model.traced
    if not sidecar or all(call is not None for call in annotations.call):
        return
    try:
        matches = model.once(traced_values)
    except InputError as error:
        if all(call is None for call in annotations.call):
            raise
        warnings.warn(f"the recorded values are not used: {error.problem}", stacklevel=2)
        return
    if not matches:
        return
    searched = model.once(searchable_calls)
    inside = _inside(model, sidecar, matches, _first_seen(sidecar, matches), searched)
    unknown = {call.parent for number, call in enumerate(sidecar.calls) if number not in searched}
    equal = {value for values in matches.values() for value in values} if model.values else set[int]()
    hierarchy = annotations.hierarchy
    for node, calls in inside.items():
        if annotations.call[node] is None:
            innermost = [a for a, b in pairwise(calls) if not hierarchy.within(b, a)] + calls[-1:]
            if not unknown.isdisjoint(innermost):  # it may be in a call inside that was not searched
                annotations.around[node] = hierarchy.common(innermost)
                continue
            word = Evidence.VALUE if equal.intersection(graph.writes[node]) else Evidence.DATAFLOW
            annotations.set(node, hierarchy.common(innermost), word)


def traced_values(model: WorkingModel) -> dict[int, list[int]]:
    """Return the values of the graph that each tensor of the trace is, by its id; for `once`.

    Recorded values tell; without these, names that count operations. Raises InputError if the graph does not run.
    """
    return model.once(recorded_matches if model.values else named_matches)


def calls_between(model: WorkingModel) -> Narrow | None:
    """Return what leaves of a node's candidates those between whose recorded inputs and results it lies.

    A candidate stays if the node is behind the results of it and of each call around it, as far as the graph has these.
    A node that makes again what it reads, as a Flatten of a vector does, may be in a call although no search finds it:
    it stops at what the call was given, and begins at the first value that is the result. If no candidate is left,
    all stay. An optimiser changes the order of nodes, and the order is all that else tells the calls of one module
    apart. Returns None if no values are known, or the graph does not run on them.
    """
    sidecar = model.traced
    if not sidecar:
        return None
    try:
        matches = model.once(traced_values)
    except InputError:  # `annotate_by_values` says so
        return None
    if not matches:
        return None
    searched = model.once(searchable_calls)
    first, given = _first_seen(sidecar, matches), _given(sidecar, matches)
    inside, known = _inside(model, sidecar, matches, first, searched), _told_apart(sidecar, matches) & searched
    graph, lineage = model.graph, model.annotations.hierarchy.lineage

    def narrow(node: int, candidates: Candidates) -> Candidates:
        """Return the candidates that the values allow."""
        behind: Collection[int] = inside.get(node, ())
        read = next(iter(graph.reads[node]), NOWHERE) if graph.operators[node].keeps_elements else NOWHERE
        if read in first and first[read] in {first.get(value) for value in graph.writes[node]}:
            behind = {*behind, *inside.get(graph.producer[read], ()), *given.get(read, ())}
        return tuple(c for c in candidates if all(a in behind for a in lineage(c) if a in known)) or candidates

    return narrow


def _told_apart(sidecar: Sidecar, matches: dict[int, list[int]]) -> set[int]:
    """Return the calls all of whose used results are values that no other call of their module returned before.

    Of calls that made equal tensors of the same ones, only the first counts: an exporter may compute these only once.
    Calls from which more leaves than they returned are left out: not all of their nodes are behind their results.
    """
    first = first_equals(sidecar)
    returned: dict[tuple[str, int], set[int]] = defaultdict(set)
    for call in sidecar.calls:
        for tensor in call.outputs:
            for value in matches.get(tensor.id, ()):
                returned[call.module, value].add(first.get(tensor.id, tensor.id))

    def is_alone(tensor: int, module: str) -> bool:
        """Return whether a tensor is a value of the graph, and the only result of a module that is this value."""
        return tensor in matches and all(returned[module, value] == {tensor} for value in matches[tensor])

    results = [() if call.leaves else used for call, used in zip(sidecar.calls, used_results(sidecar), strict=True)]
    return {c for c, own in enumerate(results) if own and all(is_alone(t, sidecar.calls[c].module) for t in own)}


def searchable_calls(model: WorkingModel) -> set[int]:
    """Return the calls between whose inputs and results nodes can be searched; for `once`.

    With recorded values it is all. Names tell fewer values. Then it is those of which all that enters, and all that
    they returned and others used, is known. Returns nothing without a trace.
    """
    sidecar = model.traced
    if not sidecar or model.values:
        return set(range(len(sidecar.calls))) if sidecar else set()
    known, entering = model.once(traced_values).keys(), tensors_entering(sidecar)
    return {c for c, returned in enumerate(used_results(sidecar)) if not returned or (returned | entering[c]) <= known}


def _inside(
    model: WorkingModel,
    sidecar: Sidecar,
    matches: Mapping[int, list[int]],
    first: Mapping[int, int],
    searched: Collection[int],
) -> dict[int, list[int]]:
    """Return by node of the main graph the calls in which it is: between what existed as they began and their results.

    `matches` has the values of the graph that equal each traced tensor, by its id, and `first` when each of these was
    first seen. In a quantised graph most values are rounded and equal none, so that little stops a search. A node that
    is known to be in a call elsewhere then does.
    """
    graph, annotations = model.graph, model.annotations
    within = annotations.hierarchy.within
    begun, _, _ = call_times(sidecar)
    inside: dict[int, list[int]] = defaultdict(list)
    lost = {c for c, call in enumerate(sidecar.calls) if not any(t.id in matches for t in call.outputs)}

    def is_outside(value: int, call: int) -> bool:
        """Return whether a value existed when a call began, or is made in a lost call that is not on its path."""
        if value in first and first[value] <= begun[call]:
            return True
        maker = annotations.call[graph.producer[value]]
        return maker in lost and not within(maker, call) and not within(call, maker)

    for number in sorted(searched):
        call = sidecar.calls[number]
        given = {tensor.id for tensor in call.inputs}
        returned = [matches[t.id][0] for t in call.outputs if t.id in matches and t.id not in given]
        for node in nodes_behind(graph, returned, until=partial(is_outside, call=number)):
            inside[node].append(number)
    return inside


def _given(sidecar: Sidecar, matches: Mapping[int, list[int]]) -> dict[int, set[int]]:
    """Return the calls that each value was given to."""
    given: dict[int, set[int]] = defaultdict(set)
    for number, call in enumerate(sidecar.calls):
        for tensor in call.inputs:
            for value in matches.get(tensor.id, ()):
                given[value].add(number)
    return given


def _first_seen(sidecar: Sidecar, matches: Mapping[int, list[int]]) -> dict[int, int]:
    """Return when the first of the traced tensors that equal it was seen, for each value that equals any."""
    _, _, born = call_times(sidecar)
    first: dict[int, int] = {}
    for tensor in matches.keys() & born.keys():
        for value in matches[tensor]:
            first[value] = min(first.get(value, born[tensor]), born[tensor])
    return first
