"""What a budget divides a model into: units that stay whole, in an order in which every cut between two is one.

A unit is a module without modules in it, or one that the user wants whole; the nodes that a larger module has itself
are units one by one, but cuts are made between modules only, so neighbours of one module become one unit:

    embed    attention                                  mlp
    Gather   MatMul (q)   Softmax   Dot   MatMul (o)    Gemm      six nodes, five units: Softmax and Dot belong to
    [ 0  ]   [   1    ]   [      2     ]   [   3    ]   [ 4  ]    `attention` itself

Units are in the order of the file as far as each comes after all that it reads. Modules that read of each other, as one
that the run leaves and enters again, are one unit. Constants are in none: every part has its own copies of those it
reads. Neither is what no output needs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from heapq import heapify, heappop, heappush

from mxtools.graph.index import NOWHERE, Graph
from mxtools.graph.walk import circles, in_order, nodes_behind
from mxtools.scopes.annotations import Annotations
from mxtools.scopes.hierarchy import ROOT_CALL

Unit = tuple[int, ...]
"""The nodes of a unit, in the order of the file."""


def units(annotations: Annotations, whole: Collection[int] = ()) -> list[Unit]:
    """Return the units of a model in order; the calls `whole` are not divided.

    Raises InputError where a node reads a value that is computed from its own result.
    """
    graph = annotations.graph
    graph.require_order()
    live = [node for node in sorted(live_nodes(annotations)) if not graph.is_constant(node)]
    found = _groups(annotations, live, whole)
    unit = {node: nodes[0] for nodes in found for node in nodes}

    def sources(first: int) -> list[int]:
        """Return the units that a unit reads from."""
        needs = (value for node in members[first] for value in graph.needs[node])
        makers = dict.fromkeys(unit[m] for v in needs if (m := graph.producer[v]) in unit)
        return [maker for maker in makers if maker != first]

    members = {nodes[0]: nodes for nodes in found}
    for circle in circles(list(members), sources):
        if len(circle) > 1:
            nodes = tuple(sorted(node for first in circle for node in members.pop(first)))
            members[nodes[0]] = nodes
            unit.update(dict.fromkeys(nodes, nodes[0]))
    order = in_order(sorted(members), sources)
    return _joined(annotations, [members[first] for first in order])


def other_orders(graph: Graph, row: Sequence[Unit], amounts: Sequence[int]) -> Iterator[list[int]]:
    """Yield other orders of units, by their places in a row, in which each comes after all that it reads too.

    Where there is a choice, the last in the row, the largest or the smallest comes first. Two towers that read of each
    other only at the end, with what they amount to, in two parts:

        a  6   b 2   c 2   d 2   head 1        the row a c | b d head has 8 and 5; largest first, a | b c d head 6 and 7
    """
    place = {node: number for number, unit in enumerate(row) for node in unit}
    sources = [{place[p] for n in unit for v in graph.needs[n] if (p := graph.producer[v]) in place} for unit in row]
    readers: list[list[int]] = [[] for _ in row]
    for number, makers in enumerate(sources):
        makers.discard(number)
        for maker in makers:
            readers[maker].append(number)
    for keys in (range(0, -len(row), -1), [-amount for amount in amounts], amounts):
        waiting = [len(makers) for makers in sources]
        ready = [(keys[number], number) for number, count in enumerate(waiting) if not count]
        heapify(ready)
        found: list[int] = []
        while ready:
            found.append(heappop(ready)[1])
            for reader in readers[found[-1]]:
                waiting[reader] -= 1
                if not waiting[reader]:
                    heappush(ready, (keys[reader], reader))
        yield found


def live_nodes(annotations: Annotations) -> set[int]:
    """Return the nodes of the main graph that an output needs."""
    graph = annotations.graph
    return nodes_behind(graph, graph.outputs, until=lambda value: graph.producer[value] == NOWHERE)


def _groups(annotations: Annotations, live: list[int], whole: Collection[int]) -> list[Unit]:
    """Return the nodes of each whole call and of each without calls in it, and all others one by one."""
    hierarchy, calls = annotations.hierarchy, annotations.call
    own = {call for node in live if (call := calls[node]) is not None}
    holding = {hierarchy.parent[call] for call in hierarchy.with_callers(own)}
    found: dict[tuple[int, int], list[int]] = {}
    for node in live:
        call = ROOT_CALL if calls[node] is None else calls[node]
        around = next((c for c in hierarchy.lineage(call or ROOT_CALL) if c in whole), None)
        if around is None and call not in holding and call is not None:
            around = call
        key = (NOWHERE, node) if around is None else (around, NOWHERE)
        found.setdefault(key, []).append(node)
    return [tuple(nodes) for nodes in found.values()]


def _joined(annotations: Annotations, found: list[Unit]) -> list[Unit]:
    """Return units of which neighbours that belong to the same call are one."""
    joined: list[Unit] = []
    for nodes in found:
        calls = {annotations.call[node] for node in nodes}
        if joined and len(calls) == 1 and calls == {annotations.call[node] for node in joined[-1]}:
            joined[-1] += nodes
        else:
            joined.append(nodes)
    return joined
