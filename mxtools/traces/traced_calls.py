"""What follows from the calls of a trace: who returned which tensor, when a call begins and ends, who called it.

It is not in `sidecar`, because the sidecar's schema takes long to import, and most code that asks has no sidecar.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from functools import wraps
from typing import TYPE_CHECKING, TypeVar
from weakref import ref

from mxtools.graph.walk import reached
from mxtools.scopes.scope import ROOT

if TYPE_CHECKING:
    from mxtools.graph.fingerprints import Fingerprint
    from mxtools.traces.sidecar import Call, Operation, Sidecar, TracedModule, TracedTensor, Weight

T = TypeVar("T")


def once_per_trace(compute: Callable[[Sidecar], T]) -> Callable[[Sidecar], T]:
    """Let a function run once for each trace, as long as the trace lives; nobody may change what it returns."""
    known: dict[int, tuple[ref[Sidecar], T]] = {}  # by identity: traces have no quick hash

    @wraps(compute)
    def found(sidecar: Sidecar) -> T:
        number = id(sidecar)
        if number not in known:
            known[number] = ref(sidecar, lambda _: known.pop(number)), compute(sidecar)
        return known[number][1]

    return found


TURNING = frozenset({"transpose", "permute", "swapaxes", "swapdims", "movedim", "moveaxis", "t"})
"""The functions of torch that change the order of dimensions, and nothing else."""


def full_name(module: TracedModule, weight: Weight) -> str:
    """Return a weight's name in the model's state dict: `encoder.layer.0.output.dense.weight`."""
    return weight.name if module.path == ROOT else f"{module.path}.{weight.name}"


def returned_tensors(call: Call) -> list[TracedTensor]:
    """Return the tensors that a call returned, each once, without those that it was given and passed on."""
    given = {tensor.id for tensor in call.inputs}
    return list({tensor.id: tensor for tensor in call.outputs if tensor.id not in given}.values())


def does_nothing(call: Call) -> bool:
    """Return whether a call returned only objects that it was given, such as a Dropout in evaluation mode."""
    return bool(call.outputs) and not returned_tensors(call)


def leaving_tensors(call: Call) -> list[TracedTensor]:
    """Return the tensors by which a call's work leaves it: those that it returned, then those that left in other ways.

    A call can make a tensor that others use although it does not return it: it writes it to a cache, or keeps it as an
    attribute.
    """
    return [*(_padded(tensor, call) for tensor in returned_tensors(call)), *call.leaves]


@once_per_trace
def tensors_returned(sidecar: Sidecar) -> Sequence[Sequence[TracedTensor]]:
    """Return for each call what `returned_tensors` does."""
    return [returned_tensors(call) for call in sidecar.calls]


@once_per_trace
def tensors_leaving(sidecar: Sidecar) -> Sequence[Sequence[TracedTensor]]:
    """Return for each call what `leaving_tensors` does."""
    return [leaving_tensors(call) for call in sidecar.calls]


def _padded(tensor: TracedTensor, call: Call) -> TracedTensor:
    """Return a tensor that a call returned; the elements of packed sequences have their shape in a graph: padded.

    PyTorch returns `data` of 5x4 with the `batch_sizes` 2, 2, 1: two sequences, of 3 and of 2 elements. Operators of
    ONNX make 3x2x4 of them.
    """
    prefix, field = tensor.name.rpartition("data")[:2]
    sizes = next((t for t in call.outputs if t.name == f"{prefix}batch_sizes"), None) if field else None
    if sizes is None or len(sizes.shape) != 1 or not sizes.fingerprint or not math.isfinite(sizes.fingerprint[2]):
        return tensor
    longest, most = sizes.shape[0], int(sizes.fingerprint[2])
    return tensor.model_copy(update={"shape": (longest, most, *tensor.shape[1:])})


def known_outputs(outputs: Collection[str], sidecar: Sidecar) -> set[str]:
    """Return those of a graph's outputs that the traced model returned too.

    If the graph has as many outputs as the trace, it is all of them, whatever their names are. Otherwise it is those
    with the same names: an exporter can leave results out, or return caches that the traced run did not keep. If no
    name is the same, it is all outputs again.
    """
    traced = {tensor.name for tensor in sidecar.calls[0].outputs}
    same = traced.intersection(outputs) if len(outputs) != len(traced) else set[str]()
    return same or set(outputs)


def outputs_returned(outputs: Mapping[int, str], sidecar: Sidecar) -> dict[int, int | None]:
    """Return those of a graph's outputs that the traced model returned, each with that tensor, None if it is not known.

    `outputs` has names by value. They count before the order, which counts only if there are as many as in the trace.
    """
    returned = sidecar.calls[0].outputs
    in_order = dict(zip(outputs, (t.id for t in returned), strict=True)) if len(outputs) == len(returned) else {}
    by_name = {tensor.name: tensor.id for tensor in returned}
    known = known_outputs(outputs.values(), sidecar)
    return {value: by_name.get(name, in_order.get(value)) for value, name in outputs.items() if name in known}


@once_per_trace
def calls_returning(sidecar: Sidecar) -> Mapping[int, Sequence[int]]:
    """Return for each tensor, by its id, the calls that returned it without being given it, the outermost first.

    The last of them computed it; those before only pass on what a module inside them returned.
    """
    calls: dict[int, list[int]] = {}
    for number, tensors in enumerate(tensors_returned(sidecar)):
        for tensor in tensors:
            calls.setdefault(tensor.id, []).append(number)
    return calls


@once_per_trace
def calls_making(sidecar: Sidecar) -> Mapping[int, int]:
    """Return for each tensor that an operation made, by its id, the innermost call that was running."""
    return {tensor: operation.call for tensor, operation in operations_making(sidecar).items()}


@once_per_trace
def fingerprints(sidecar: Sidecar) -> Mapping[int, Fingerprint]:
    """Return the fingerprints that are known, by the ids of their tensors."""
    return {t.id: t.fingerprint for call in sidecar.calls for t in (*call.inputs, *call.outputs) if t.fingerprint}


def plain_name(name: str) -> str:
    """Return the form that the names of an operator and of its function have in common: `add` for `__add__`."""
    return name.strip("_").lower()


def operator_name(function: str) -> str:
    """Return the plain name of the operator that exporters write for a function of torch.

    It is the function's own, but for those that change the order of dimensions.
    """
    name = plain_name(function)
    return "transpose" if name in TURNING else name


@once_per_trace
def operations_making(sidecar: Sidecar) -> Mapping[int, Operation]:
    """Return for each tensor that an operation made, by its id, that operation; the last one if there are several."""
    return {tensor: operation for operation in sidecar.operations for tensor in operation.outputs}


@once_per_trace
def operations_reading(sidecar: Sidecar) -> Mapping[int, Sequence[Operation]]:
    """Return for each tensor, by its id, the operations that read it; one that reads it twice stands there twice.

    A tensor that none reads has no entry.
    """
    readers: dict[int, list[Operation]] = defaultdict(list)
    for operation in sidecar.operations:
        for tensor in operation.inputs:
            readers[tensor].append(operation)
    return dict(readers)


@once_per_trace
def used_results(sidecar: Sidecar) -> Sequence[Set[int]]:
    """Return for each call the ids of the tensors that it returned, and that something read or the model returned.

    If the trace has no operations, all count.
    """
    read = {tensor for operation in sidecar.operations for tensor in operation.inputs}
    read.update(tensor.id for call in sidecar.calls for tensor in call.inputs)
    read.update(tensor.id for tensor in sidecar.calls[0].outputs)
    returned = [{tensor.id for tensor in tensors} for tensors in tensors_returned(sidecar)]
    return [own & read for own in returned] if sidecar.operations else returned


@once_per_trace
def calls_using(sidecar: Sidecar) -> Mapping[int, Set[int]]:
    """Return the calls of the operations that read each tensor; of those only that the model's results depend on."""
    found = {tensor.id: {0} for tensor in tensors_leaving(sidecar)[0]}
    for operation in reversed(sidecar.operations):
        if not found.keys().isdisjoint(operation.outputs):
            for tensor in operation.inputs:
                found.setdefault(tensor, set()).add(operation.call)
    return found


@once_per_trace
def tensors_entering(sidecar: Sidecar) -> Sequence[Set[int]]:
    """Return for each call the ids of the tensors that it read, itself or in calls that it made, and did not make.

    Only those count that depend on the model's inputs: they, and what operations made of them.
    """
    live = first_equals(sidecar).keys()
    maker = calls_making(sidecar)
    entering: list[set[int]] = [set() for _ in sidecar.calls]
    for operation in sidecar.operations:
        for tensor in live & set(operation.inputs):
            around = {maker[tensor], *callers(sidecar.calls, maker[tensor])} if tensor in maker else set()
            for call in (operation.call, *callers(sidecar.calls, operation.call)):
                if call in around:
                    break
                entering[call].add(tensor)
    return entering


def tensor_sources(sidecar: Sidecar) -> defaultdict[int, set[int]]:
    """Return for each tensor, by its id, those that it may be computed from: of its operation, and of its call."""
    sources: defaultdict[int, set[int]] = defaultdict(set)
    for operation in sidecar.operations:
        for tensor in operation.outputs:
            sources[tensor].update(operation.inputs)
    for call in sidecar.calls[1:]:
        for output in call.outputs:
            sources[output.id].update(tensor.id for tensor in call.inputs)
    return sources


def unseen_tensors(sidecar: Sidecar) -> set[int]:
    """Return the tensors that calls were given although nothing in the trace made them; weights are among them.

    A function that `torch.jit.script` compiled made the others.
    """
    if not sidecar.operations:
        return set()
    seen = {tensor for operation in sidecar.operations for tensor in operation.outputs}
    seen.update(tensor.id for tensor in sidecar.calls[0].inputs)
    seen.update(tensor.id for tensors in tensors_returned(sidecar) for tensor in tensors)
    return {tensor.id for call in sidecar.calls for tensor in call.inputs} - seen


def unused_calls(sidecar: Sidecar) -> set[int]:
    """Return the calls from whose results nothing is computed that the model, or the exported part of it, returned.

    What changed a tensor counts as used, since the tensor may be a view of another one. So does everything, if the
    trace has no operations or no results.
    """
    part = sidecar.model.part or ROOT
    start = next((call for call in sidecar.calls if call.module == part), None)
    returned = [tensor.id for tensor in leaving_tensors(start)] if start else []
    if not sidecar.operations or not returned:
        return set()
    changed = (tensor for o in sidecar.operations for tensor in o.outputs if tensor in o.inputs)
    sources = tensor_sources(sidecar)
    used = set(reached((*returned, *changed), lambda tensor: sources[tensor]))  # `isdisjoint` goes through a dict
    leaving = ({tensor.id for tensor in tensors} for tensors in tensors_leaving(sidecar))
    return {number for number, tensors in enumerate(leaving) if tensors and tensors.isdisjoint(used)}


@once_per_trace
def first_equals(sidecar: Sidecar) -> Mapping[int, int]:
    """Return what `first_equals_with` does if nothing more is known."""
    return first_equals_with(sidecar, (), {})


def first_equals_with(sidecar: Sidecar, known: Collection[int], equal_calls: Mapping[int, int]) -> dict[int, int]:
    """Return for each tensor that depends on the model's inputs the first one that was made in the same way.

    It is the tensor itself, unless operations of the same names had made another one of the same tensors before. By
    their ids, since the values of different tensors can be equal by chance. Tensors that depend on `known` ones count
    too. `equal_calls` has for some calls an equal one: what they returned is equal, however they made it.
    """
    begins = (*known, *(tensor.id for tensor in sidecar.calls[0].inputs)) if sidecar.calls else known
    same = {tensor: tensor for tensor in begins}
    pairs = [[sidecar.calls[c].outputs for c in pair] for pair in equal_calls.items() if max(pair) < len(sidecar.calls)]
    equal = {max(one.id, other.id): min(one.id, other.id) for pair in pairs for one, other in zip(*pair, strict=False)}
    first: dict[tuple[str, tuple[int, ...], int], Operation] = {}
    for operation in sidecar.operations:
        if not same.keys().isdisjoint(operation.inputs):
            read = tuple(same.get(tensor, tensor) for tensor in operation.inputs)
            before = first.setdefault((operation.name, read, len(operation.outputs)), operation)
            same.update(zip(operation.outputs, before.outputs, strict=True))
        same.update((tensor, same[equal[tensor]]) for tensor in operation.outputs if equal.get(tensor) in same)
    return same


def callers(calls: Sequence[Call], number: int) -> Iterator[int]:
    """Yield the call that made a call, the one that made that, and so on up to the root; nothing for the root."""
    parent = calls[number].parent
    while parent is not None:
        yield parent
        parent = calls[parent].parent


def ending_with(
    calls: Sequence[Call], number: int, other: int, origin: Callable[[TracedTensor], int] = lambda tensor: tensor.id
) -> list[int]:
    """Return the calls around a call that return just what it returns, but for those that are around another too.

    They end inside the same node, even if they have nodes of their own, as a Sequential of two convolutions has whose
    second one took up a BatchNorm outside of it. Tensors with the same `origin` are the same.
    """
    both = {other, *callers(calls, other)}
    returned = set(map(origin, calls[number].outputs))
    around = (at for at in callers(calls, number) if at not in both)
    return [at for at in around if returned and set(map(origin, calls[at].outputs)) == returned]


def call_ends(sidecar: Sidecar) -> list[int]:
    """Return for each call the number of the first one after it that is not inside it.

    Calls are listed as they began, so the calls inside call `c` are `c + 1` to `call_ends(sidecar)[c] - 1`.
    """
    ends = [number + 1 for number in range(len(sidecar.calls))]
    for number in range(len(ends) - 1, 0, -1):
        parent = sidecar.calls[number].parent or 0
        ends[parent] = max(ends[parent], ends[number])
    return ends


def ticks(parents: Sequence[int | None]) -> Iterator[tuple[int, bool]]:
    """Yield each call twice: with True as it begins, and with False as it ends.

    `parents` has the caller of each call; calls are numbered in the order in which they began.
    """
    running: list[int] = []
    for call, parent in enumerate(parents):
        while running and running[-1] != parent:
            yield running.pop(), False
        yield call, True
        running.append(call)
    yield from ((call, False) for call in reversed(running))


def call_times(sidecar: Sidecar) -> tuple[list[int], list[int], dict[int, int]]:
    """Return when each call began, when each ended, and by id when each tensor was first seen.

    The clock ticks once for each beginning and each end of a call. For a root that calls `a` and then `b`:

        root begins 1, a begins 2, a ends 3, b begins 4, b ends 5, root ends 6

    A tensor is first seen when a call that is given it begins, or when one that returns it ends. So a result of `a` has
    the time 3, and what the root computed between the two calls and gave to `b` has the time 4.
    """
    calls = sidecar.calls
    begun, ended = [0] * len(calls), [0] * len(calls)
    first_seen: dict[int, int] = {}
    for clock, (call, begins) in enumerate(ticks([call.parent for call in calls]), 1):
        (begun if begins else ended)[call] = clock
        for tensor in calls[call].inputs if begins else calls[call].outputs:
            first_seen.setdefault(tensor.id, clock)
    return begun, ended, first_seen
