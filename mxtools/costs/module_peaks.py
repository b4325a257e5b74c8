"""For each module call the peak of the values that it has to do with, in a run of the whole model."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterator

from mxtools.costs.activations import Peak, Size, buffers
from mxtools.graph.index import NOWHERE
from mxtools.scopes.annotations import Annotations


def module_peaks(annotations: Annotations, size: Size, chosen: Collection[int] | None = None) -> dict[int, Peak]:
    """Return the peak of each call: the most bytes of values it reads or makes that are live while a node of it runs.

    Calls in it count too, so a call has at least the peak of each of these. Without `chosen` all nodes count. What
    bodies and functions need inside is unknown. O(nodes + edges), times the depth of the tree, and a logarithm.
    """
    graph = annotations.graph
    counted = range(len(graph.nodes)) if chosen is None else chosen
    steps: dict[int, list[int]] = defaultdict(list)
    for step, node in enumerate(graph.main):
        for call in _around(annotations, node) if node in counted else ():
            steps[call].append(step)
    changes = {call: [0] * (len(own) + 1) for call, own in steps.items()}
    unsized: dict[int, int] = defaultdict(int)
    for buffer in buffers(graph, graph.main, size, graph.inputs, graph.outputs):
        touching = {call for node in buffer.nodes if node in counted for call in _around(annotations, node)}
        for call in touching:
            if buffer.size is None:
                unsized[call] += 1
                continue
            changes[call][bisect_left(steps[call], buffer.first)] += buffer.size
            changes[call][bisect_right(steps[call], buffer.last)] -= buffer.size
    for node in filter(counted.__contains__, _unknown(annotations)):
        for call in _around(annotations, node):
            unsized[call] += 1
    return {call: Peak(_highest(changes.get(call, ())), unsized[call]) for call in (*changes, *unsized)}


def _unknown(annotations: Annotations) -> Iterator[int]:
    """Yield the nodes in bodies and functions, and those that hold or call them."""
    graph = annotations.graph
    called = {site for sites in graph.sites.values() for site in sites}
    holding = {graph.top(node) for node, owner in enumerate(graph.owner) if owner != NOWHERE}
    for node, region in enumerate(graph.region):
        if region or graph.owner[node] != NOWHERE or node in called or node in holding:
            yield node


def _around(annotations: Annotations, node: int) -> list[int]:
    call = annotations.call[node]
    return [] if call is None else list(annotations.hierarchy.lineage(call))


def _highest(changes: Collection[int]) -> int:
    highest = live = 0
    for change in changes:
        live += change
        highest = max(highest, live)
    return highest
