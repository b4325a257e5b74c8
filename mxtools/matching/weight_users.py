"""Which nodes use which weights, and what this says of the values that they make and read.

    earlier   x ─ Gemm(w, b) ─g─ Gelu ─ y
    now       x ─ MatMul(w) ─m─ BiasGelu(b) ─ y

The obvious way, that the only node with w makes and reads what the only node with w did before, fails here: a tool made
the Gemm into two nodes. The MatMul reads what the Gemm read, but m is not g, because b comes later; and the BiasGelu
does not read x. So a node stands for the end of an earlier node only if all weights of that are used in the node itself
or before it, and for its beginning only if they are used in the node or behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import NamedTuple

from mxtools.graph.index import Graph
from mxtools.graph.operators import operator_and_attributes
from mxtools.graph.shapes import stored_shape
from mxtools.graph.walk import reached
from mxtools.matching.clamped_values import through_clamps
from mxtools.matching.correspondence import Correspondence, ValueMatches


class _Users(NamedTuple):
    """The nodes that use a weight, the first and the last of them."""

    all: frozenset[int]
    first: int
    last: int


def users(graph: Graph, values: Iterable[int]) -> list[int]:
    """Return the nodes that use some constants, directly or made into other constants, in the graph's order."""

    def made(value: int) -> Iterator[int]:
        """Yield the constants that are made from a constant."""
        return (v for node in graph.readers[value] if graph.is_constant(node) for v in graph.writes[node])

    return sorted({n for value in reached(values, made) for n in graph.readers[value] if not graph.is_constant(n)})


def made_with(found: Correspondence, fits: Callable[[int, int], bool], sure: bool = False) -> ValueMatches:
    """Match the results of a weight's only user with those of the weight's last user in the earlier graph.

    `fits` says whether a value can be a given earlier one. With `sure`, nodes are left out that may do the work of what
    comes next, too. Without, these make what the clamps behind the earlier user made, which are gone.
    """
    graph, earlier, made = found.graph, found.earlier, dict[int, int]()
    users_now = _users_now(found)
    for node, twins in _only_users(found):
        twin = max(twins)
        does_no_more = _does_no_more(found, node, twin)
        if all(node in use.all or use.last < node for use in users_now(twin)) and (does_no_more or not sure):
            end = earlier.writes[twin][0]
            made[graph.writes[node][0]] = end if does_no_more else through_clamps(earlier, end)
    return {value: (other,) for value, other in made.items() if fits(value, other)}


def _does_no_more(found: Correspondence, node: int, twin: int) -> bool:
    """Return whether a node cannot do the work of what came behind an earlier one, such as the Gelu of a BiasGelu.

    ONNX's own operators cannot, unless they quantise: then the least number can do the work of a Relu. Nor can a node
    if what comes next is still there.
    """
    graph, earlier = found.graph, found.earlier
    if graph.operators[node].is_onnx and not graph.operators[node].quantises:
        return True
    next_now = {operator_and_attributes(graph.nodes[n]) for n in graph.targets(node)}
    next_before = {operator_and_attributes(earlier.nodes[n]) for n in earlier.targets(twin)}
    return graph.has_same_operator(node, earlier, twin) or not next_now.isdisjoint(next_before)


def read_with(found: Correspondence, fits: Callable[[int, int], bool]) -> ValueMatches:
    """Match what a weight's only user reads besides weights with what the weight's first user read before.

    So a MatMul and an Add that a tool made into one Gemm lead backwards to the value that both worked on. If a weight
    of the first user was not recognised, the node must read a constant that was not either: a tool may have packed the
    weight of a Gemm into a node before, and the node only adds the bias.
    """
    graph, earlier, users_now = found.graph, found.earlier, _users_now(found)
    first = ((node, min(twins)) for node, twins in _only_users(found))
    read = (
        (graph.live_reads(node), earlier.live_reads(twin))
        for node, twin in first
        if all(node in use.all or node < use.first for use in users_now(twin))
        and (found.values_now.keys() >= _weights(earlier, twin) or _reads_unknown(found, node))
    )
    return {a[0]: (b[0],) for a, b in read if len(a) == len(b) == 1 and fits(a[0], b[0])}


def _users_now(found: Correspondence) -> Callable[[int], Iterator[_Users]]:
    """Return a function that yields the nodes that use each known weight of an earlier node now."""

    @cache
    def using(weight: int) -> _Users | None:
        nodes = users(found.graph, found.values_now.get(weight, ()))
        return _Users(frozenset(nodes), nodes[0], nodes[-1]) if nodes else None

    return lambda twin: (nodes for v in _weights(found.earlier, twin) if (nodes := using(v)))


def _weights(graph: Graph, node: int) -> set[int]:
    """Return the stored floats that a node reads."""
    stored = ((value, graph.initializers.get(value)) for value in graph.reads[node])
    return {value for value, tensor in stored if tensor is not None and stored_shape(tensor).kind == "f"}


def _reads_unknown(found: Correspondence, node: int) -> bool:
    """Return whether a node reads a constant that is not known to be one of the earlier graph."""
    constants = (value for value in found.graph.reads[node] if value in found.graph.constant)
    return any(value not in found.earlier_values for value in constants)


def _only_users(found: Correspondence) -> Iterator[tuple[int, set[int]]]:
    """Yield each node that is a weight's only user, with the users of the weight in the earlier graph.

    Exporters keep a weight that they transposed once for each call. Such copies are equal, so they stand for all of
    those before. If they have as many users now, the first one is the first one; otherwise nothing is known of them.
    """
    twins: dict[int, set[int]] = {}
    copies: dict[tuple[int, ...], set[int]] = {}
    for value, others in found.earlier_values.items():
        if value in found.graph.stored and len(nodes := users(found.graph, (value,))) == 1:
            if len(others) > 1:
                copies.setdefault(tuple(sorted(others)), set()).update(nodes)
            else:
                twins.setdefault(nodes[0], set()).update(users(found.earlier, others))
    for weights, now in copies.items():
        before = users(found.earlier, weights)
        if len(now) == len(before):
            for node, twin in zip(sorted(now), before, strict=True):
                twins.setdefault(node, set()).add(twin)
    return ((node, nodes) for node, nodes in twins.items() if nodes)
