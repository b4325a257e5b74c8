"""Which nodes use which weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from mxtools.graph.index import Graph
from mxtools.graph.walk import reached
from mxtools.matching.correspondence import Correspondence, ValueMatches


def users(graph: Graph, values: Iterable[int]) -> list[int]:
    """Return the nodes that use some constants, directly or made into other constants, in the graph's order."""

    def made(value: int) -> Iterator[int]:
        """Yield the constants that are made from a constant."""
        return (v for node in graph.readers[value] if graph.is_constant(node) for v in graph.writes[node])

    return sorted({n for value in reached(values, made) for n in graph.readers[value] if not graph.is_constant(n)})


def made_with(found: Correspondence, fits: Callable[[int, int], bool]) -> ValueMatches:
    """Match the results of a weight's only user with those of the weight's last user in the earlier graph.

    `fits` says whether a value can be a given earlier one.
    """
    graph, earlier = found.graph, found.earlier
    made = ((graph.writes[node][0], earlier.writes[max(twins)][0]) for node, twins in _only_users(found))
    return {value: (other,) for value, other in made if fits(value, other)}


def read_with(found: Correspondence, fits: Callable[[int, int], bool]) -> ValueMatches:
    """Match what a weight's only user reads besides weights with what the weight's first user read before.

    So a MatMul and an Add that a tool made into one Gemm lead backwards to the value that both worked on.
    """
    graph, earlier = found.graph, found.earlier
    read = ((graph.live_reads(node), earlier.live_reads(min(twins))) for node, twins in _only_users(found))
    return {a[0]: (b[0],) for a, b in read if len(a) == len(b) == 1 and fits(a[0], b[0])}


def _only_users(found: Correspondence) -> Iterator[tuple[int, set[int]]]:
    """Yield each node that is a weight's only user, with the users of the weight in the earlier graph."""
    twins: dict[int, set[int]] = {}
    for value, others in found.earlier_values.items():
        if value in found.graph.stored and len(nodes := users(found.graph, (value,))) == 1:
            twins.setdefault(nodes[0], set()).update(users(found.earlier, others))
    return ((node, nodes) for node, nodes in twins.items() if nodes)
