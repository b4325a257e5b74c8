"""Which values of a graph the tensors of a trace are, by names that count operations; and what follows for the nodes.

    x ─ Gemm ─a─ Split … Mul ─b─ Gemm ─ linear_3        PyTorch ran: `cell`, given 4, returned 9; then linear(9, w, b)

The names say that the second Gemm is this linear, so the value b is tensor 9; likewise a is tensor 4. So the nodes
between a and b are `cell`, even if it ran as a single operation that the exporter took apart into nodes with names that
the trace does not know.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from mxtools.evidence.calls.index import CallIndex, call_index
from mxtools.evidence.operation_names import (
    named_operations,
    own_name,
    owners_of,
    result_name,
    taken_apart,
    worker,
)
from mxtools.graph.index import NOWHERE, Graph
from mxtools.graph.walk import nodes_behind
from mxtools.matching.surviving_names import QUANTISED
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes.annotations import Evidence
from mxtools.scopes.scope import contains
from mxtools.traces.traced_calls import (
    fingerprints,
    first_equals,
    operations_making,
    operations_reading,
    outputs_returned,
    plain_name,
    tensors_entering,
    tensors_returned,
)

if TYPE_CHECKING:
    from mxtools.traces.sidecar import Operation, Sidecar

_CLAMPING = frozenset({"relu", "relu6", "clamp", "hardtanh"})
"""Operations whose operators quantisers remove."""
_CLAMPS = frozenset({"Relu", "Clip"})
"""These operators."""
MOST_FUSED = 8
"""The number of operations of which optimisers make one node, at most."""


def annotate_by_operations(model: WorkingModel, index: CallIndex) -> None:
    """Annotate the nodes whose results are named for operations, if nothing else is known of them.

    A node that reads more than its operation did does the work of others too. An optimiser made one node of them:
    `FusedConv` reads the weights of `conv`, and its result is that of `act`. If only its own name is that of an
    operation, and its result is known to be that of another one, the result counts.
    """
    annotations, operations = model.annotations, index.sidecar.operations
    named = model.once(named_operations) if None in annotations.call else {}
    made_by_tools = _results_of_tools(model.graph) if named else {}
    # values are matched only if they are needed
    by_result = _by_their_results(made_by_tools, index.sidecar, model.once(named_matches)) if made_by_tools else {}
    known = named | {
        node: number
        for node, number in by_result.items()
        if node not in named or not _is_result(model.graph, node, plain_name(operations[named[node]].name))
    }
    clamping = _clamping_too(model.graph, index.sidecar, known)
    for node, own in known.items():
        number = clamping.get(node, own)
        call = operations[number].call
        behind = _with_quantisation(model.graph, node, operations[number])
        open_ = [place for place in behind if annotations.call[place] is None]
        for place in open_:
            annotations.set(place, call, Evidence.NAME)
        if node not in open_:
            continue
        done = {*_fused(model, index, node, number), operations[own].call}
        before = [c for c in sorted(done) if not annotations.hierarchy.within(call, c)]
        annotations.merged |= {node: (*before, call)} if before else {}


def _clamping_too(graph: Graph, sidecar: Sidecar, known: Mapping[int, int]) -> dict[int, int]:
    """Return the nodes with quantised results that do what a Relu did with these, each with the Relu's operation.

    A quantiser takes the Relu away if the numbers of the node begin at zero.
    """
    quantised = [n for n in known if any(graph.names[v].endswith(QUANTISED) for v in graph.writes[n])]
    if not quantised:
        return {}
    numbers = {operation.outputs[0]: n for n, operation in enumerate(sidecar.operations) if operation.outputs}
    readers, done, found = operations_reading(sidecar), {*known.values()}, dict[int, int]()
    for node in quantised:
        reading = [operation for t in sidecar.operations[known[node]].outputs for operation in readers.get(t, ())]
        if len(reading) == 1 and plain_name(reading[0].name) in _CLAMPING and not _is_clamped(graph, node):
            number = numbers[reading[0].outputs[0]]
            found |= {} if number in done else {node: number}
    return found


def _is_clamped(graph: Graph, node: int) -> bool:
    """Return whether a Relu or Clip reads the results of a node, also as floats."""
    behind = [reader for place in _with_quantisation(graph, node) for reader in graph.targets(place)]
    return any(graph.nodes[reader].op_type in _CLAMPS for reader in behind)


def _with_quantisation(graph: Graph, node: int, operation: Operation | None = None) -> Iterator[int]:
    """Yield a node, and those behind it that only turn its quantised results back into floats.

    Where a quantiser took the Relu of an operation away, the quantisation behind does its work, since its numbers begin
    at zero.
    """
    readers = [*graph.targets(node)]
    yield node
    yield from (reader for reader in readers if graph.operators[reader].dequantises)
    if operation and plain_name(operation.name) in _CLAMPING and graph.nodes[node].op_type not in _CLAMPS:
        for reader in readers:
            if graph.operators[reader].is_named("QuantizeLinear"):
                yield from _with_quantisation(graph, reader)


def _results_of_tools(graph: Graph) -> dict[int, int]:
    """Return the results of the nodes that a tool made, each with its node: their operators are not ONNX's."""
    return {value: n for n in graph.main if graph.operators[n].is_compound for value in graph.writes[n][:1]}


def _by_their_results(
    results: Mapping[int, int], sidecar: Sidecar, found: Mapping[int, Sequence[int]]
) -> dict[int, int]:
    """Return the operations of the nodes that made some `results`, if these values were `found` to be tensors.

    Such a result has no telling name if the exporter took the operation apart: `FusedGemm ─ val_4 ─ Gemm ─ linear_1`.
    """
    return {
        results[value]: number
        for number, operation in reversed([*enumerate(sidecar.operations)])
        for tensor in operation.outputs
        for value in found.get(tensor, ())
        if value in results
    }


def _fused(model: WorkingModel, index: CallIndex, node: int, number: int) -> list[int]:
    """Return the calls whose work a node does before its operation, if it reads more than the operation did.

    It is the one whose weights it reads. If a tool made the node, put more into a Conv or Gemm, or gave the node the
    result of another operation than its name says, it is also those that made what the operation read, but what no
    value of the graph is.
    """
    graph, operation = model.graph, index.sidecar.operations[number]
    read = {value for value in graph.reads[node] if graph.is_live(value) or value in graph.weighted}
    quantised = {*graph.stored_reads(node)}.difference(graph.reads[node])
    if len(read | quantised) <= len(operation.inputs):
        return []
    found, owners = set[int](), owners_of(graph, index, node)
    if owners and not any(contains(index.module[operation.call], owner) for owner in owners):
        found.update(sorted(c for owner in owners for c in index.by_module(owner) if c < operation.call)[-1:])
    is_of_tool = taken_apart(own_name(graph.nodes[node]))[0] not in ("", plain_name(operation.name))
    if graph.operators[node].is_compound or graph.operators[node].is_product or is_of_tool:
        found.update(_unmatched_before(model, index.sidecar, node, operation))
    return sorted(found - {operation.call})


def _unmatched_before(model: WorkingModel, sidecar: Sidecar, node: int, operation: Operation) -> set[int]:
    """Return the calls of the operations before one, back to what the node reads."""
    return {o.call for o in _done_with(model.graph, sidecar, model.once(_known), node, operation)[0]}


class _Known:
    """The values that tensors are, and all these values."""

    def __init__(self, values: dict[int, int]) -> None:
        self.values, self.told = values, {*values.values()}


def _known(model: WorkingModel) -> _Known:
    """Return what `named_matches` does, with one value each; for `once`."""
    return _Known({tensor: values[0] for tensor, values in model.once(named_matches).items()})


def _done_with(
    graph: Graph, sidecar: Sidecar, matched: _Known, node: int, operation: Operation
) -> tuple[list[Operation], list[int]]:
    """Return the operations before one, back to what the node reads, and the tensors there that no known value is.

    `FusedConv` does conv, norm, the sum with a residual and act. If this leads past what it reads, only those that made
    what the operation read count. If it reads values that no name tells, it is back to as many tensors:
    `SkipLayerNormalization` reads x and what `fft` made of it.
    """
    makers, live, known = operations_making(sidecar), first_equals(sidecar), matched.values
    first = [makers[t] for t in operation.inputs if t in live and t in makers and t not in known]
    found, queue = {*map(id, first)}, [*first]
    reads = {value for value in graph.reads[node] if graph.is_live(value)}
    untold = reads - matched.told
    unread = reads - untold - {known[tensor] for tensor in operation.inputs if tensor in known}
    for done, before in enumerate(queue):
        if done and not unread and len(queue) - done == len(untold):
            made = {tensor for o in queue[done:] for tensor in o.outputs}
            return queue[:done], [t for o in queue[:done] for t in o.inputs if t in made]
        for tensor in before.inputs:
            if tensor in known:
                if known[tensor] not in reads:
                    return first, []
                unread.discard(known[tensor])
            elif tensor in live and tensor in makers and id(makers[tensor]) not in found:
                found.add(id(makers[tensor]))
                queue.append(makers[tensor])
        if len(queue) > MOST_FUSED:
            return first, []
    return queue, []


def named_matches(model: WorkingModel) -> dict[int, list[int]]:
    """Return for tensors of the trace, by id, the value of the graph that they are, as names tell; for `once`.

    The values are the inputs and outputs of the graph, what is named for an operation and, if its node reads as much as
    the operation did, what it reads. A node that does more than one operation reads more.
    """
    graph, named = model.graph, model.once(named_operations)
    if not model.traced or not named:
        return {}
    operations, given = model.traced.operations, {t.name: t.id for t in model.traced.calls[0].inputs}
    made = {given[graph.names[value]]: value for value in graph.inputs if graph.names[value] in given}
    returned = outputs_returned({value: graph.names[value] for value in graph.outputs}, model.traced)
    made |= {tensor: value for value, tensor in returned.items() if tensor is not None}
    for node, number in named.items():
        results, values = operations[number].outputs, graph.writes[node]
        if len(results) == len(values) and _is_result(graph, node, plain_name(operations[number].name)):
            made |= dict(zip(results, values, strict=True))
    known = set(made.values())
    read: dict[int, int] = {}
    traced = {t.id: t for call in model.traced.calls for t in (*call.inputs, *call.outputs)}
    for node, number in named.items():
        tensors = operations[number].inputs
        for tensor, value in zip(tensors, _operands(graph, node, len(tensors)), strict=False):
            shape, maker = model.shapes[value], graph.producer[value]
            is_moved = maker != NOWHERE and graph.operators[maker].keeps_elements
            if is_moved and shape and tensor in traced and not shape.agrees(traced[tensor]):
                value = graph.reads[maker][0]
            if graph.is_live(value) and value not in known:
                read[tensor] = value
    found = read | made
    _match_read_by_fused(model, named, found)
    _match_alike(graph, model.traced, found)
    # an exporter may compute the same only once
    equal = first_equals(model.traced).items()
    found |= {tensor: found[first] for tensor, first in equal if first in found and tensor not in found}
    _match_other_results(graph, model.traced, found)
    return {tensor: [value] for tensor, value in found.items()}


def _is_result(graph: Graph, node: int, name: str) -> bool:
    """Return whether a node's result is that of an operation of this name, and not of one that was fused with it."""
    return name in (taken_apart(result_name(graph, node))[0], plain_name(graph.nodes[node].op_type))


def _operands(graph: Graph, node: int, count: int) -> tuple[int, ...]:
    """Return what a node reads for an operation of so many inputs; nothing if it reads more or less.

    Tools put a Gemm between two Reshapes. Then the last one has the name, and what the first one reads is what the
    operation read. Exporters make a product and an Add of a linear operation; together these read what it read. A
    DequantizeLinear behind the node that did the operation reads its result.
    """
    if graph.operators[node].dequantises:
        return ()
    values = tuple(graph.reads[worker(graph, node)])
    maker = graph.producer[values[0]] if values else NOWHERE
    if len(values) == count - 1 and maker != NOWHERE and graph.operators[maker].is_product:
        values = (*graph.reads[maker], *values[1:])
    return values if len(values) == count else ()


def _match_read_by_fused(model: WorkingModel, named: Mapping[int, int], found: dict[int, int]) -> None:
    """Match what the first operation read of those that a tool fused to one node: the one whose weights the node reads.

    `FusedGemm` reads what `linear` read, and its result is that of `act`. Also match the one value that no name tells,
    if only one tensor can be it.
    """
    index, graph = model.once(call_index), model.graph
    if not index or not (results := _results_of_tools(graph)):
        return
    makers = operations_making(index.sidecar)
    by_result = _by_their_results(results, index.sidecar, {tensor: [value] for tensor, value in found.items()})
    ends, matched = {**by_result, **named}, _Known(found)
    for node, number in ends.items():
        owners = owners_of(graph, index, node) if graph.operators[node].is_compound else frozenset[str]()
        operation: Operation | None = index.sidecar.operations[number]
        for _ in range(MOST_FUSED if owners else 0):
            operation = makers.get(operation.inputs[0]) if operation and operation.inputs else None
            if operation and index.module[operation.call] in owners:
                found.setdefault(operation.inputs[0], graph.reads[node][0])
                break
        if not graph.operators[node].is_compound:
            continue
        tensors = {*_done_with(graph, index.sidecar, matched, node, index.sidecar.operations[number])[1]}
        values = {value for value in graph.reads[node] if graph.is_live(value)} - matched.told
        if len(tensors) == len(values) == 1:
            found.setdefault(tensors.pop(), values.pop())


def _match_alike(graph: Graph, sidecar: Sidecar, found: dict[int, int]) -> None:
    """Match the tensors too that have the elements of a matched one, before or after an operation that changed none.

    The graph may lack such operations, such as a flatten; then both tensors are one value.
    """
    known = fingerprints(sidecar)
    pairs = [
        (operation.inputs[0], operation.outputs[0])
        for operation in sidecar.operations
        if len(operation.inputs) == len(operation.outputs) == 1
        and known.get(operation.inputs[0], 0) == known.get(operation.outputs[0])
    ]
    for before, after in reversed(pairs):
        if after in found and before not in found:
            maker = graph.producer[found[after]]
            moves = maker != NOWHERE and graph.operators[maker].keeps_elements
            found[before] = graph.reads[maker][0] if moves else found[after]
    for before, after in pairs:
        if before in found and after not in found:
            readers = graph.readers[found[before]]
            moves = len(readers) == 1 and graph.operators[readers[0]].keeps_elements
            found[after] = graph.writes[readers[0]][0] if moves else found[before]


def _match_other_results(graph: Graph, sidecar: Sidecar, found: dict[int, int]) -> None:
    """Match the one result of a call that is not matched to the one other value that leaves the call's nodes.

    Such a call is that of an LSTMCell: the next one reads the state of the cell, but no other operation does. A value
    that is known to be a tensor with other elements is no such value.
    """
    entering = tensors_entering(sidecar)
    prints = fingerprints(sidecar)
    tensors = tensors_by_value(found.items())
    for number, own in enumerate(tensors_returned(sidecar)):
        returned = {tensor.id for tensor in own}
        known = {found[tensor] for tensor in returned & found.keys()}
        if len(returned - found.keys()) != 1 or not known or not entering[number] <= found.keys():
            continue
        nodes = nodes_behind(graph, known, {found[tensor] for tensor in entering[number]}.__contains__)
        leaving = {v for node in nodes for v in graph.writes[node] if not nodes.issuperset(graph.readers[v])} - known
        (left,) = returned - found.keys()
        alike = {v for v in leaving if all(prints.get(t, 0) == prints.get(left) for t in tensors.get(v, ()))}
        if len(alike) == 1 and graph.is_live(value := alike.pop()):
            found[left] = value


def tensors_by_value(matches: Iterable[tuple[int, int]]) -> dict[int, list[int]]:
    """Return the tensors that each value is, from pairs of a tensor and a value."""
    tensors: dict[int, list[int]] = defaultdict(list)
    for tensor, value in matches:
        tensors[value].append(tensor)
    return tensors
