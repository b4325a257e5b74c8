"""Nodes whose operations ran in another call than the exporter's names say.

    x ─ Gemm ─ Mul ─ Add ─ Tanh ─ Gemm ─ y
        a      .     .     .      b            what TorchScript wrote
        a      a     a     .      b            what is right

    PyTorch ran: in a linear(0) -> 1, mul(1) -> 2, add(2) -> 3; then tanh(3) -> 4; in b linear(4) -> 5

The module `a` has a hook that changes what it returns. TorchScript names the work of hooks after the caller, here the
root. So a part that is cut out for `a` would return something that `a` never returned.

The trace knows in which call each operation ran. The nodes of `b` read only one value from outside, so this value is
tensor 4, which `b` was given. Hence the Tanh is the operation that made 4, and the Add, which the Tanh reads, is the
operation that made 3, which ran in `a`. The walk goes on backwards as long as node and operation read the same number
of values, of the same shapes. If they do not, because one function became several nodes, as the Unsqueezes of
`x[:, :, None, None]`, all nodes back to the first one that is known to be in `a` belong to the function. A node moves
down into the call of its operation only if everything that it reads was made there, moves there too, or was given to
this call, and no other operation does the same. So what an exporter computes once for several calls stays in its place.
A node of which the exporter says nothing, and which data flow put into the caller, moves by the same rules.

TorchScript gives no names to the nodes of a function that `torch.jit.script` compiled, and the trace has none of its
operations. If a call returned what such a function made, all nodes back to the first one of that call are the function.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection
from typing import TYPE_CHECKING

from mxtools.graph.index import NOWHERE, Graph
from mxtools.graph.walk import nodes_behind
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes.annotations import Annotations, Evidence
from mxtools.scopes.hierarchy import ROOT_CALL
from mxtools.traces.traced_calls import first_equals, operations_making, plain_name

if TYPE_CHECKING:
    from mxtools.graph.shapes import Shapes
    from mxtools.traces.sidecar import Operation, Sidecar

_SAID = frozenset({Evidence.NAME, Evidence.METADATA})
"""What an exporter says: TorchScript in names, torch.export in metadata, which leave out modules of torch.fx."""


def move_to_operations(model: WorkingModel) -> None:
    """Move nodes down into the calls in which their operations ran, if the exporter says the caller.

    Does nothing without a trace, or if the trace has no operations.
    """
    if not model.traced or not model.traced.operations or _SAID.isdisjoint(model.annotations.evidence):
        return
    graph, annotations = model.graph, model.annotations
    operations = _Operations(graph, annotations, model.shapes, model.traced)
    wanted = operations.calls_by_node()
    for node in sorted(wanted):  # along the data flow
        call = wanted[node]
        if not _is_caller(annotations, node, call):
            continue
        if annotations.evidence[node] is Evidence.METADATA and node not in operations.alike:
            continue
        read = graph.live_reads(node)
        if read and all(operations.is_of(value, node, call) for value in read):
            annotations.set(node, call, Evidence.DATAFLOW)


def _is_caller(annotations: Annotations, node: int, call: int) -> bool:
    """Return whether the exporter, or data flow, puts a node into a call that contains the given one."""
    at = annotations.call[node]
    is_around = at is not None and at != call and annotations.hierarchy.within(call, at)
    return is_around and annotations.evidence[node] in (*_SAID, Evidence.DATAFLOW)


class _Operations:
    """Finds the operations that made the values of a graph, going backwards from the inputs of calls and the outputs.

    Attributes: `alike`, the found nodes that have the names of their operations.
    """

    def __init__(self, graph: Graph, annotations: Annotations, shapes: Shapes, sidecar: Sidecar) -> None:
        self._graph, self._annotations, self._shapes, self._sidecar = graph, annotations, shapes, sidecar
        made = operations_making(sidecar)
        self._live = made.keys() | {tensor.id for tensor in sidecar.calls[0].inputs}
        self._maker = {**made, **_compiled(sidecar, made)}
        self._tensors = {tensor.id: tensor for call in sidecar.calls for tensor in call.outputs}
        self._known: dict[int, int] = {}
        self.alike = set[int]()
        self._given_to = [{tensor.id for tensor in call.inputs} for call in sidecar.calls]
        self._first = first_equals(sidecar)
        self._times = Counter(self._first.values())
        given = {tensor.name: tensor for tensor in sidecar.calls[0].inputs}
        known = [(shapes[v], given[graph.names[v]]) for v in graph.inputs if graph.names[v] in given]
        self._same_sizes = all(shape.agrees(tensor) for shape, tensor in known if shape and shape.dims is not None)

    def calls_by_node(self) -> dict[int, int]:
        """Return the nodes whose operations are found, each with the call in which its operation ran."""
        found: dict[int, int] = {}
        known = self._known = self._returned() | self._given()
        left: list[tuple[int, int, int | None]] = [(value, tensor, None) for value, tensor in known.items()]
        while left:
            value, tensor, reader = left.pop()
            node, operation = self._graph.producer[value], self._maker.get(tensor)
            if node == NOWHERE or operation is None or node in found:
                continue
            values = self._graph.live_reads(node)
            if len(values) == 1 and not self._is_like(node, operation) and self._is_there(node, tensor, operation):
                left += [(values[0], tensor, reader)] if known.setdefault(values[0], tensor) == tensor else []
                continue
            found[node] = operation.call
            if self._is_like(node, operation):
                self.alike.add(node)
            tensors = [t for t in operation.inputs if t in self._live]
            pairs = list(zip(values, tensors, strict=False)) if len(values) == len(tensors) else []
            fitting = [(v, t) for v, t in pairs if self._can_be(v, t)]
            if pairs and (self._is_like(node, operation) or len(pairs) == len(fitting) == 1):
                left += [(v, t, operation.call) for v, t in fitting if known.setdefault(v, t) == t]
            elif _is_caller(self._annotations, node, operation.call):
                call, nodes = self._whole(value, operation, reader)
                found = dict.fromkeys(nodes, call) | found | {node: call}
        return found

    def is_of(self, value: int, node: int, call: int) -> bool:
        """Return whether a call made a value, or was given it and alone ran the operation of a node that reads it.

        Then the node must have the operation's name: behind it, a node of two merged modules can hide an operation.
        """
        if self._is_known(value, call):
            return True
        if node not in self.alike:
            return False
        made = [self._known.get(result) for result in self._graph.writes[node]]
        is_alone = all(t is not None and self._times[self._first.get(t, t)] == 1 for t in made)
        return is_alone and self._known.get(value) in self._given_to[call]

    def _whole(self, value: int, operation: Operation, reader: int | None) -> tuple[int, set[int]]:
        """Return the call that ran an operation of several nodes, and these nodes, given the value that it makes.

        The nodes reach back to what is known of the call in which the operation ran. An exporter gives all nodes of one
        operation the same name. So if the operation reads nothing that was made in that call, what is known there is
        the operation itself. Then the nodes are the rest of the operation that reads its result, which ran in the call
        `reader`:

            linear ─ Gemm ─┬─ Erf ─ Mul ─       gelu: its last Mul reads one value, as gelu does, but another one
                           └───────┘
        """
        nodes, call = self._nodes_of_call(value, operation.call), operation.call
        begins_there = any(self._is_known(v, call) for n in nodes for v in self._graph.reads[n])
        within = self._annotations.hierarchy.within
        reads_own = any(t in self._maker and within(self._maker[t].call, call) for t in operation.inputs)
        if begins_there and operation.name and not reads_own:
            return (ROOT_CALL, set()) if reader is None else (reader, nodes)
        return call, nodes

    def _can_be(self, value: int, tensor: int) -> bool:
        """Return whether the known shapes of a value and of a tensor are the same.

        Only the number of dimensions counts if the graph's inputs are of other sizes than those of the traced run.
        """
        traced = self._tensors.get(tensor)
        shape = self._shapes[value] if traced else None
        if traced is None or shape is None or shape.dims is None:
            return True
        return shape.agrees(traced) if self._same_sizes else len(shape.dims) == len(traced.shape)

    def _is_there(self, node: int, tensor: int, operation: Operation) -> bool:
        """Return whether what a node reads already is the tensor that an operation made.

        So it is if the node before has the name of the operation; then the node did nothing in PyTorch, such as a Cast
        to the same type. Or the node only reshapes, and what it reads has the shape of the tensor.
        """
        value = self._graph.live_reads(node)[0]
        maker = self._graph.producer[value]
        is_reshaped = self._graph.operators[node].keeps_elements and self._has_shape_of(value, tensor)
        return is_reshaped or (maker != NOWHERE and self._is_like(maker, operation))

    def _has_shape_of(self, value: int, tensor: int) -> bool:
        """Return whether a value has the shape of a tensor, both of which are known."""
        traced, shape = self._tensors.get(tensor), self._shapes[value]
        return traced is not None and shape is not None and shape.agrees(traced)

    def _is_like(self, node: int, operation: Operation) -> bool:
        """Return whether operator and function have one name (`MatMul`, `matmul`) and so read the same inputs."""
        return plain_name(self._graph.nodes[node].op_type) == plain_name(operation.name)

    def _nodes_of_call(self, value: int, call: int) -> set[int]:
        """Return the nodes between what a call is known to have made and the result of one of its operations."""
        return nodes_behind(self._graph, [value], lambda v: not self._graph.is_live(v) or self._is_known(v, call))

    def _is_known(self, value: int, call: int) -> bool:
        """Return whether a value is known to be made in a call."""
        maker = self._graph.producer[value]
        at = None if maker == NOWHERE else self._annotations.call[maker]
        return at is not None and self._annotations.hierarchy.within(at, call)

    def _returned(self) -> dict[int, int]:
        """Return the outputs of the graph with the tensors that the traced model returned, if it has as many."""
        outputs, tensors = self._graph.outputs, self._sidecar.calls[0].outputs
        pairs = zip(outputs, tensors, strict=False) if len(outputs) == len(tensors) else ()
        return {value: tensor.id for value, tensor in pairs if self._can_be(value, tensor.id)}

    def _given(self) -> dict[int, int]:
        """Return the values that are a call's input, with their tensors; only for calls with a single input."""
        graph, call_of = self._graph, self._annotations.call
        within = self._annotations.hierarchy.within
        read: dict[int, set[int]] = defaultdict(set)
        for node, call in enumerate(call_of):
            if call is None or graph.owner[node] != NOWHERE:
                continue
            for value in graph.reads[node]:
                maker = call_of[graph.producer[value]] if graph.producer[value] != NOWHERE else None
                if graph.is_live(value) and (maker is None or not within(maker, call)):
                    read[call].add(value)
        given: dict[int, int] = {}
        for call, values in read.items():
            tensors = {tensor.id for tensor in self._sidecar.calls[call].inputs}
            if len(values) == len(tensors) == 1:
                given[values.pop()] = tensors.pop()
        return given


def _compiled(sidecar: Sidecar, made: Collection[int]) -> dict[int, Operation]:
    """Return an operation of unknown name for each tensor that a call made, but none of the operations in the trace.

    `made` has the tensors that these made.
    """
    from mxtools.traces.sidecar import Operation  # long to import

    found = {}
    for number, call in enumerate(sidecar.calls):  # the innermost last
        for tensor in {t.id for t in call.outputs}.difference(made, (t.id for t in call.inputs)):
            found[tensor] = Operation(number, "", (), (tensor,))
    return found
