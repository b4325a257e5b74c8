"""Nodes that do the work of several modules, such as a Conv with a folded BatchNorm: which module gets the node.

    x ─ Conv ─ Relu ─ Conv ─ Relu ─ GlobalAveragePool ─ y
        conv1  act1   conv2  act2   pool                     what the exporter wrote
        bn1    act1   conv2  act2   pool                     what is right

    PyTorch ran: conv1, bn1, act1, bn2, conv2, act2, pool; no node has `bn1` or `bn2`

Both BatchNorms are folded into a neighbouring Conv. The obvious rule, that a module without nodes is merged into the
node before it, fails: before `bn2` there is a Relu, which did not take it up. And many modules without nodes, such as a
Dropout, did nothing at all; `is_vacuous` recognises these from the trace.

A node belongs to the module whose *output* it makes, because a cut ends at the module's results. `bn1` took what
`conv1` made, so its work is at the end of that Conv, and the node goes to `bn1`. `bn2` ran before `conv2`, so its work
is at the beginning of the second Conv, and that node stays in `conv2`. In both nodes, `merged` lists the modules whose
work they do.

How can one tell that a Conv took up a BatchNorm? It has a weight that its own module does not account for: here a bias
of 4 elements, although `conv1` has only a kernel of 4x3x1x1, and `bn1` has weights of 4. The node before must also make
a tensor of the right shape, and must no longer use its module's weights unchanged. If no node has such a further
weight, these two conditions are enough.

Between the two modules, operations may have moved elements, such as two transpositions that the exporter left out. So
what counts is which tensor had the same elements before, by the fingerprints, which do not depend on their order. A
module that returned them moved ends inside of the node too.
"""

from __future__ import annotations

import math
from bisect import insort
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mxtools.evidence.absent import calls_with_nodes, is_vacuous
from mxtools.evidence.altered_weights import is_altered, weight_name
from mxtools.evidence.calls.index import CallIndex, call_index
from mxtools.evidence.corrections.ended import enter_ended
from mxtools.evidence.corrections.fused_values import assign_fused_by_values
from mxtools.graph.fingerprints import same_fingerprint
from mxtools.graph.index import NOWHERE, Graph
from mxtools.graph.walk import reached
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes.annotations import Annotations
from mxtools.traces.traced_calls import (
    call_ends,
    callers,
    calls_returning,
    ending_with,
    full_name,
    operations_making,
    returned_tensors,
)

if TYPE_CHECKING:
    from mxtools.traces.sidecar import Sidecar, TracedTensor

LONGEST_MOVE = 8
"""How many operations in a row may have moved elements: hardly ever do more, and the limit keeps the time linear."""


def assign_fused(model: WorkingModel) -> None:
    """Find the nodes that do the work of calls without nodes, and annotate each with the call whose output it makes.

    The work of a call without nodes can be in a node of the call whose result it took, or of the call that took its
    result. A call whose result nothing uses did no work that is left. Does nothing without a trace.
    """
    annotations, index = model.annotations, model.once(call_index)
    if index:
        _assign(model, annotations, index)
        _end_around(annotations, index.sidecar)


def _assign(model: WorkingModel, annotations: Annotations, index: CallIndex) -> None:
    """Find the nodes in which calls end: by values, by weights, and then by the order in which calls ran."""
    sidecar = index.sidecar
    with_nodes = calls_with_nodes(annotations, _dequantising_weights(annotations.graph))
    assign_fused_by_values(model, sidecar, with_nodes)
    enter_ended(annotations, index)
    ended = set().union(*annotations.merged.values())
    done = with_nodes | annotations.equal.keys() | ended | index.unused
    open_ = [c for c in range(len(sidecar.calls)) if c not in done and not is_vacuous(sidecar.calls[c])]
    lacking = _lacking_own_nodes(annotations, sidecar, with_nodes)
    followed = _followed_by_weights(sidecar, with_nodes)
    if not open_ and not lacking and not followed:
        return
    fused = _FusedCalls(model, sidecar, with_nodes)
    for call in sorted(open_, key=lambda c: (fused.ends[c], -c)):  # as they returned, the inner ones first
        if call not in with_nodes:
            fused.assign(call)
            fused.enter_caller(call)
    for call in lacking:
        fused.assign_before(call)
    for call, caller in followed.items():
        fused.assign_after(call, caller)


def _dequantising_weights(graph: Graph) -> set[int]:
    """Return the nodes that only turn quantised weights back into floats."""
    return {node for node, operator in enumerate(graph.operators) if operator.dequantises and graph.is_constant(node)}


def _end_around(annotations: Annotations, sidecar: Sidecar) -> None:
    """Let calls that returned what calls inside them returned end inside the same merged nodes.

    A convolution of two resolutions ends there if both of its results go through a BatchNorm outside of it. So does a
    call that would hand out other values instead: one that a merged node reads, and that it did not return.
    """
    graph, calls = annotations.graph, annotations.call
    within = annotations.hierarchy.within
    ends: dict[int, set[int]] = defaultdict(set)
    around: dict[int, None] = {}
    for node, merged in annotations.merged.items():
        for ended in (c for c in merged if c != calls[node]):
            around |= dict.fromkeys(callers(sidecar.calls, ended))
            for tensor in returned_tensors(sidecar.calls[ended]):
                ends[tensor.id].add(node)

    def is_inner(value: int, call: int, results: set[int]) -> bool:
        """Return whether a call inside another one returned a value, and the other one did not."""
        at = calls[graph.producer[value]] if graph.producer[value] != NOWHERE else None
        if at in (None, call) or not within(at, call):
            return False
        return results.isdisjoint(tensor.id for tensor in returned_tensors(sidecar.calls[at]))

    for call in around:
        results = {tensor.id for tensor in returned_tensors(sidecar.calls[call])}
        last = [{n for n in ends[t] if (at := calls[n]) is not None and not within(at, call)} for t in results]
        nodes = set().union(*last)
        if any(call in annotations.merged[n] for n in nodes):
            continue
        if not all(last):
            nodes = {n for n in nodes if any(is_inner(value, call, results) for value in graph.live_reads(n))}
        if nodes:
            annotations.merged[max(nodes)] = (call, *annotations.merged[max(nodes)])


def _lacking_own_nodes(annotations: Annotations, sidecar: Sidecar, with_nodes: set[int]) -> list[int]:
    """Return the calls that ran operations and own weights, but only calls inside them have nodes.

    One example is a BatchNorm that calls an activation, and that was folded into the convolution before it.
    """
    own = {call for call in annotations.call if call is not None}
    owning = {module.path for module in sidecar.modules if module.weights}
    running = {operation.call for operation in sidecar.operations}
    return sorted(c for c in (with_nodes & running) - own if sidecar.calls[c].module in owning)


def _followed_by_weights(sidecar: Sidecar, with_nodes: set[int]) -> dict[int, int]:
    """Return the calls with nodes behind which a caller ran one operation on their only result and on weights.

    Each has that caller. One example is a convolution whose caller normalises what it returned by `F.batch_norm`.
    """
    owning = {module.path for module in sidecar.modules if module.weights}
    ends = {
        call.outputs[0].id: number
        for number, call in enumerate(sidecar.calls)
        if len(call.outputs) == 1 and number in with_nodes and call.module in owning
    }
    computed = {tensor for operation in sidecar.operations for tensor in operation.outputs}
    computed.update(tensor.id for tensor in sidecar.calls[0].inputs)
    found: dict[int, list[int]] = defaultdict(list)
    weighted = set[int]()
    for operation in sidecar.operations:
        for tensor in operation.inputs:
            call = ends.get(tensor)
            if call is not None and operation.call < call:
                found[call].append(operation.call)
                if not computed.issuperset(operation.inputs):
                    weighted.add(call)
    return {call: callers[0] for call, callers in found.items() if len(callers) == 1 and call in weighted}


class _FusedCalls:
    """Calls without nodes, and the nodes that do their work.

    Attributes: `with_nodes`, the calls that have nodes; `tied`, for each weight's name the name of the first weight
    that is the same tensor; `weights` and `weight_shapes`, those of each module, by its path; `maker`, the innermost
    call that returned each tensor, by its id; `takers`, the calls that were given it; `made`, the ids of the tensors
    that a call's own operations made; `operation`, the operation that made each tensor; `tensors`, those of the calls,
    by their ids; `ends`, see `call_ends`; `nodes`, by call, the nodes of the main graph except for constants and those
    that only quantise; `constants_read`, what those constants read, such as a weight that is expanded.
    """

    def __init__(self, model: WorkingModel, sidecar: Sidecar, with_nodes: set[int]) -> None:
        self.graph, self.annotations, self.shapes = model.graph, model.annotations, model.shapes
        graph, annotations = model.graph, model.annotations
        self.model, self.sidecar, self.with_nodes = model, sidecar, with_nodes
        self.tied = {full_name(m, w): w.tied or full_name(m, w) for m in sidecar.modules for w in m.weights}
        self.weights = {m.path: {self.tied[full_name(m, w)] for w in m.weights} for m in sidecar.modules}
        self.weight_shapes = {m.path: [tuple(sorted(w.shape)) for w in m.weights] for m in sidecar.modules}
        self.maker = {tensor: calls[-1] for tensor, calls in calls_returning(sidecar).items()}
        self.takers: dict[int, list[int]] = {}
        for number, call in enumerate(sidecar.calls):
            for tensor in {tensor.id for tensor in call.inputs}:
                self.takers.setdefault(tensor, []).append(number)
        self.ends = call_ends(sidecar)
        self.made: dict[int, set[int]] = defaultdict(set)
        for operation in sidecar.operations:
            self.made[operation.call].update(operation.outputs)
        self.operation = operations_making(sidecar)
        self.tensors = {t.id: t for call in sidecar.calls for t in (*call.inputs, *call.outputs)}
        self.nodes: dict[int, list[int]] = {}
        self.constants_read: dict[int, set[int]] = defaultdict(set)
        for node, at in enumerate(annotations.call):
            if at is None or graph.owner[node] != NOWHERE:
                continue
            if graph.is_constant(node):
                self.constants_read[at].update(graph.reads[node])
            elif not graph.operators[node].is_conversion:
                self.nodes.setdefault(at, []).append(node)

    def assign(self, call: int) -> None:
        """Find the node that does the work of a call without nodes: one of the call before it, or of the call after it.

        It is the node with a weight that no other module accounts for and that has the shape of the call's largest
        weight. If neither has such a weight, it is the node before, which no longer uses its own module's weights
        unchanged.
        """
        before, after = self._node_before(call), self._node_after(call)
        if before is not None and (
            self._has_weight_of(before, call) or after is None or not self._has_weight_of(after, call)
        ):
            self._move(before, call)
        elif after is not None and self._has_weight_of(after, call):
            at = self.annotations.call[after]
            assert at is not None
            done = self.annotations.calls_done(after)
            self.annotations.merged[after] = (*ending_with(self.sidecar.calls, call, at), call, *done)

    def assign_before(self, call: int) -> None:
        """Give the node before to a call without nodes of its own, if that node no longer uses its weights unchanged.

        Nor may any node use the call's own weights: they are in that node too.
        """
        node = self._node_before(call)
        used = {self.tied.get(tensor.name) for tensor in self.graph.initializers.values()}
        if node is not None and used.isdisjoint(self.weights[self.sidecar.calls[call].module]):
            self._move(node, call)

    def assign_after(self, call: int, caller: int) -> None:
        """Give the last node of a call to its caller if that one's next operation, which reads weights, is in it too.

        It is if the node has a weight more than the module, or none of several as they were, and if no reader of the
        node has weights.
        """
        nodes = self.nodes.get(call)
        if not nodes or not self._has_altered_weights(call) or not self.annotations.hierarchy.within(call, caller):
            return
        weights = self._weight_shapes_of(call)
        has_more = sum(self._weights_left(nodes[-1]).values()) > 0
        readers = {n for value in self.graph.writes[nodes[-1]] for n in self.graph.readers[value]}
        if (has_more or len(weights) > 1) and not any(self._reads_weights(n) for n in readers):
            self._move(nodes[-1], caller)

    def enter_caller(self, call: int) -> None:
        """Let a call end inside the node of its caller that reads its weights, if it has no node.

        torch.export puts a Conv with a folded `F.batch_norm` into the module that called this function.
        """
        graph, annotations = self.graph, self.annotations
        caller = self.sidecar.calls[call].parent
        stored = (graph.by_name.get(name, NOWHERE) for name in self.weights[self.sidecar.calls[call].module])
        readers = {node for value in stored if value != NOWHERE for node in graph.readers[value]}
        nodes = [node for node in readers if annotations.call[node] == caller]
        if len(nodes) == 1 and nodes[0] not in annotations.merged:
            annotations.merged[nodes[0]] = (call, *annotations.calls_done(nodes[0]))

    def _reads_weights(self, node: int) -> bool:
        """Return whether a node reads a weight of the model, or another constant of numbers, perhaps quantised."""
        tensors = (self.graph.initializers.get(value) for value in self.graph.stored_reads(node))
        return any(t is not None and (t.name in self.tied or math.prod(t.dims) > 1) for t in tensors)

    def _adds_bias(self, node: int) -> bool:
        """Return whether a node is no operator of ONNX and reads weights, of one dimension only."""
        tensors = (self.graph.initializers.get(value) for value in self.graph.reads[node])
        dims = [tuple(tensor.dims) for tensor in tensors if tensor]
        return bool(self.graph.nodes[node].domain) and bool(dims) and all(len(d) == 1 and d[0] > 1 for d in dims)

    def _node_before(self, call: int) -> int | None:
        """Return the last node of the one call that made everything that a call was given, None if no such node fits.

        It fits if its call's weights are altered, or if a tool made it of an addition of a bias and more, such as a
        FastGelu; and if it makes a tensor with the shape of one that the call returned.
        """
        record = self.sidecar.calls[call]
        makers = {self.maker[origin] for t in record.inputs if (origin := self._origin(t)) in self.maker}
        makers -= set(self.annotations.hierarchy.lineage(call))
        source = makers.pop() if len(makers) == 1 else None
        if source is None or not self.nodes.get(source):
            return None
        node = self.nodes[source][-1]
        if not self._adds_bias(node) and not self._has_altered_weights(source):
            return None
        shapes = [self.shapes[value] for value in self.graph.writes[node]]
        return (
            node if any(not shape or shape.in_floats.fits(t) for t in self._results(call) for shape in shapes) else None
        )

    def _origin(self, tensor: TracedTensor) -> int:
        """Return the id of the first tensor that had the same elements, before operations that only moved them."""
        origin = at = tensor.id
        for _ in range(LONGEST_MOVE):
            operation = self.operation.get(at)
            if not operation or len(operation.inputs) != 1:
                break
            (at,) = operation.inputs
            known = self.tensors.get(at)
            if known and known.fingerprint and tensor.fingerprint:
                if not same_fingerprint(known.fingerprint, tensor.fingerprint):
                    break
                origin = at
        return origin

    def _results(self, call: int) -> list[TracedTensor]:
        """Return what a call returned, and what it made itself and gave to the calls inside it."""
        inner = range(call + 1, self.ends[call])
        given = (t for c in inner if self.sidecar.calls[c].parent == call for t in self.sidecar.calls[c].inputs)
        return [*self.sidecar.calls[call].outputs, *(t for t in given if t.id in self.made[call])]

    def _node_after(self, call: int) -> int | None:
        """Return the only node of the only call that took what a call returned, None if there are more of either."""
        hierarchy, returned = self.annotations.hierarchy, self.sidecar.calls[call].outputs
        takers = {taker for tensor in returned for taker in self.takers.get(tensor.id, ())} & self.with_nodes
        innermost = [t for t in takers if not any(u != t and hierarchy.within(u, t) for u in takers)]
        nodes = self.nodes.get(innermost[0], []) if len(innermost) == 1 else []
        return nodes[0] if len(nodes) == 1 else None

    def _has_weight_of(self, node: int, call: int) -> bool:
        """Return whether a node has a weight in the shape of a call's largest, besides its own modules' weights."""
        largest = max(self._weight_shapes_of(call), key=math.prod, default=None)
        return largest is not None and self._weights_left(node)[largest] > 0

    def _weights_left(self, node: int) -> Counter[tuple[int, ...]]:
        """Return the shapes of a node's weights, without those of the modules whose work it does."""
        tensors = (self.graph.initializers.get(value) for value in self.graph.stored_reads(node))
        left = Counter(tuple(sorted(tensor.dims)) for tensor in tensors if tensor)
        left.subtract(shape for done in self.annotations.calls_done(node) for shape in self._weight_shapes_of(done))
        return left

    def _weight_shapes_of(self, call: int) -> list[tuple[int, ...]]:
        return self.weight_shapes[self.sidecar.calls[call].module]

    def _has_altered_weights(self, call: int) -> bool:
        """Return whether a call's module has weights, and its nodes use none of them unchanged.

        Some tools let an altered weight keep its name; then the fingerprint of the traced one tells.
        """
        read = self.constants_read[call].union(*(self.graph.reads[node] for node in self.nodes[call]))
        weights = self.weights[self.sidecar.calls[call].module]
        own = [value for value in read if self.tied.get(weight_name(self.graph, value)) in weights]
        return bool(weights) and all(is_altered(self.model, value) for value in own)

    def _conversions_behind(self, node: int) -> Iterator[int]:
        """Return the readers of a node that only quantise its results, or turn them back into floats."""
        return (reader for reader in self.graph.targets(node) if self.graph.operators[reader].is_conversion)

    def _move(self, node: int, call: int) -> None:
        """Give a node to the call whose output it makes."""
        annotations = self.annotations
        at = annotations.call[node]
        assert at is not None
        ending = ending_with(self.sidecar.calls, at, call, self._origin)
        annotations.merged[node] = (*ending, *annotations.calls_done(node), call)
        for moved in reached((node,), self._conversions_behind):
            if annotations.call[moved] == at:
                annotations.call[moved] = call
        self.nodes[at].remove(node)
        insort(self.nodes.setdefault(call, []), node)
        self.with_nodes.update(annotations.hierarchy.lineage(call))
