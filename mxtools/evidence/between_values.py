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
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

from mxtools.errors import InputError
from mxtools.graph.index import Graph
from mxtools.graph.walk import nodes_behind
from mxtools.matching.traced_values import recorded_matches
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes.annotations import Evidence
from mxtools.traces.traced_calls import call_times

if TYPE_CHECKING:
    from mxtools.traces.sidecar import Sidecar


def annotate_by_values(model: WorkingModel) -> None:
    """Run the graph on the recorded inputs and annotate the nodes that have no direct evidence.

    Does nothing without a trace and values to run on. If the graph does not run, since it has operators of another
    runtime, the other evidence must do, with a warning. Raises InputError if there is none.
    """
    graph, annotations = model.graph, model.annotations
    sidecar = model.traced
    if not sidecar or not model.values or all(call is not None for call in annotations.call):
        return
    try:
        matches = model.once(recorded_matches)
    except InputError as error:
        if all(call is None for call in annotations.call):
            raise
        warnings.warn(f"the recorded values are not used: {error.problem}", stacklevel=2)
        return
    inside: dict[int, list[int]] = defaultdict(list)
    for call, nodes in enumerate(_between(graph, sidecar, matches)):
        for node in nodes:
            inside[node].append(call)
    equal = {value for values in matches.values() for value in values}
    hierarchy = annotations.hierarchy
    for node, calls in inside.items():
        if annotations.call[node] is None:
            innermost = [a for a, b in pairwise(calls) if not hierarchy.within(b, a)] + calls[-1:]
            word = Evidence.VALUE if equal.intersection(graph.writes[node]) else Evidence.DATAFLOW
            annotations.set(node, hierarchy.common(innermost), word)


def _between(graph: Graph, sidecar: Sidecar, matches: dict[int, list[int]]) -> list[set[int]]:
    """Return for each call the nodes of the main graph between the values that existed when it began and its results.

    `matches` has the values of the graph that equal each traced tensor, by its id.
    """
    begun, _, born = call_times(sidecar)
    inside: list[set[int]] = []
    first: dict[int, int] = {}
    for tensor, values in matches.items():
        for value in values:
            first[value] = min(first.get(value, born[tensor]), born[tensor])

    def was_there(value: int, time: int) -> bool:
        """Return whether a value existed when a call began."""
        return value in first and first[value] <= time

    for number, call in enumerate(sidecar.calls):
        given = {tensor.id for tensor in call.inputs}
        returned = [matches[t.id][0] for t in call.outputs if t.id in matches and t.id not in given]
        inside.append(nodes_behind(graph, returned, until=partial(was_there, time=begun[number])))
    return inside
