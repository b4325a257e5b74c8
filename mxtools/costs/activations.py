"""How much memory the values between nodes take in a run: which are live at the same time.

A run goes through the nodes in their order. A value lives from the node that makes it to the last one that reads it;
inputs live all the time, since the caller holds them, and outputs to the end. Four nodes and 4 KB for each value:

    x -> MatMul -> m -> Relu -> r -> Transpose -> t -> Add(t, m) -> y

    MatMul      x m          8 KB
    Relu        x m r       12 KB: m is read later, so that Relu cannot write over it
    Transpose   x m r t     16 KB, the peak
    Add         x m t y     16 KB

Values share a buffer where ONNX Runtime lets them: a Reshape returns what it was given, and a Relu that reads a value
last writes over it. What an operator needs for itself while it runs counts where it is much, as for Where. Weights are
none of these values.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from mxtools.graph.index import Graph

Size = Callable[[int], int | None]
"""The bytes of a value, None where they are not known."""


@dataclass
class Buffer:
    """Memory that values share.

    Attributes: `size`, in bytes, None if it is not known; `first` and `last`, the steps at which it begins and ceases
    to be needed; `nodes`, those that write or read it.
    """

    size: int | None
    first: int
    last: int
    nodes: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Peak:
    """The most bytes that are live at the same time, and how many values are not in it, since their size is unknown."""

    bytes: int
    unsized: int


def peak(graph: Graph, order: Sequence[int], size: Size, inputs: Collection[int], outputs: Collection[int]) -> Peak:
    """Return the peak of a run of some nodes of the main graph, in their order, on inputs."""
    return peak_of(buffers(graph, order, size, inputs, outputs), len(order))


def peak_of(found: Iterable[Buffer], steps: int) -> Peak:
    """Return the peak of some buffers in a run of so many steps."""
    changes, unsized = [0] * (steps + 1), 0
    for buffer in found:
        if buffer.size is None:
            unsized += 1
            continue
        changes[max(buffer.first, 0)] += buffer.size
        if buffer.last < steps:
            changes[buffer.last + 1] -= buffer.size
    return Peak(max(accumulate(changes)), unsized)


def buffers(
    graph: Graph, order: Sequence[int], size: Size, inputs: Collection[int], outputs: Collection[int]
) -> list[Buffer]:
    """Return the buffers of a run of some nodes of the main graph, in their order; steps are places in the order."""
    end, returned = len(order) - 1, set(outputs)
    last = {value: step for step, node in enumerate(order) for value in graph.needs[node]}
    last.update(dict.fromkeys(returned, end))
    held = {value: Buffer(size(value), -1, end) for value in inputs if value not in graph.stored}
    for step, node in enumerate(order):
        if graph.operators[node].is_named("Constant"):
            continue
        for value in graph.needs[node]:
            if value in held:
                held[value].nodes.append(node)
        for place, value in enumerate(graph.writes[node]):
            ends = last.get(value, step)
            shared = None if place or value in returned else _shared(graph, node, held, step, size(value))
            if shared is not None:
                shared.last = max(shared.last, ends)
                held[value] = shared
            elif not _is_stored_again(graph, node, place):
                held[value] = Buffer(size(value), step, ends, [node])
    found = list({id(buffer): buffer for buffer in held.values()}.values())
    return found + _workspaces(graph, order, size)


def _shared(graph: Graph, node: int, held: dict[int, Buffer], step: int, size: int | None) -> Buffer | None:
    """Return the buffer that the first result of a node lies in, if it is that of what the node reads first."""
    buffer = held.get(graph.reads[node][0]) if graph.reads[node] else None
    operator = graph.operators[node]
    if buffer is None or operator.keeps_elements:
        return buffer
    is_free = buffer.first >= 0 and buffer.last <= step and buffer.size == size
    return buffer if operator.in_place and is_free else None


def _workspaces(graph: Graph, order: Sequence[int], size: Size) -> list[Buffer]:
    """Return the buffers that nodes need only while they run."""
    needing = ((step, node, graph.operators[node].workspace) for step, node in enumerate(order))
    return [
        Buffer(None if (made := size(graph.writes[node][0])) is None else made * times, step, step, [node])
        for step, node, times in needing
        if times and graph.writes[node]
    ]


def _is_stored_again(graph: Graph, node: int, place: int) -> bool:
    """Return whether a result of a node is a stored tensor in another shape."""
    reads = graph.reads[node]
    return not place and graph.operators[node].keeps_elements and bool(reads) and reads[0] in graph.stored
