"""What several modules share (common subexpressions) belongs to what holds them all."""

from __future__ import annotations

import heapq
import itertools
import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from onnx import ModelProto

from mxtools.files.weights import WeightStore
from mxtools.graph.constants import constant_arrays
from mxtools.graph.fingerprints import fingerprint, same_fingerprint
from mxtools.graph.index import NOWHERE, Graph
from mxtools.graph.shapes import Shaped
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes.annotations import Evidence
from mxtools.scopes.hierarchy import ROOT_CALL
from mxtools.traces.sidecar import Sidecar, Tensor, full_name, returned, times


def hoist_shared(model: WorkingModel) -> None:
    """Move each node that makes a tensor which leaves a module without being one that the module returns.

    Against the data flow, so that the readers of a node are settled before it. Needs a trace, which tells what each
    call returned; without one nothing is done.
    """
    graph, annotations = model.graph, model.annotations
    if not model.traced:
        return
    returned_tensors = _ReturnedTensors(model, model.traced)
    calls, producer = annotations.call, graph.producer
    leaving = set(graph.outputs) | _crossing(graph, calls)
    waiting = sorted({-producer[value] for value in leaving if producer[value] != NOWHERE})
    done = NOWHERE
    while waiting:
        node = -heapq.heappop(waiting)
        if node == done:
            continue
        done, before = node, calls[node]
        for value in graph.writes[node]:
            if value in leaving or calls[node] != before:
                returned_tensors.settle(node, value)
        for value in graph.reads[node] if calls[node] != before else ():
            maker = producer[value]
            if maker < node and maker != NOWHERE and calls[maker] != calls[node]:
                leaving.add(value)
                heapq.heappush(waiting, -maker)


def _crossing(graph: Graph, calls: Sequence[int | None]) -> set[int]:
    """Give the values that a node of one call makes and a node of another reads."""
    count = len(graph.nodes)
    call = np.fromiter((NOWHERE if at is None else at for at in calls), np.int64, count)
    reading = np.repeat(np.arange(count), np.fromiter(map(len, graph.reads), np.int64, count))
    values = np.fromiter(itertools.chain.from_iterable(graph.reads), np.int64, len(reading))
    makers = np.array(graph.producer, np.int64)[values]
    return set(values[(makers != NOWHERE) & (call[makers] != call[reading])].tolist())


class _ReturnedTensors:
    """Which tensors calls returned, and which of them values of the graph do not stand for yet."""

    def __init__(self, model: WorkingModel, sidecar: Sidecar) -> None:
        self.graph, self.annotations = model.graph, model.annotations
        self.shapes = model.shapes
        self.constant = self.graph.constant
        self.outputs = set(self.graph.outputs)
        self.moved: dict[int, set[int]] = {}
        self.calls = sidecar.calls
        _, self.ended, self.born = times(sidecar)
        self.returned = [returned(call) for call in sidecar.calls]
        folded = self._folded(model.proto, model.weights, sidecar)
        self.left = [[t for t in tensors if t.id not in folded] for tensors in self.returned]

    def settle(self, node: int, value: int) -> None:
        """Move a node out of the calls that a value of it leaves without being returned by them.

        What its own call returned stays there, even if it leaves calls further out by a side channel. A constant takes
        no returned tensor from another value, and one that nothing computes is never returned.
        """
        graph, calls, hierarchy = self.graph, self.annotations.call, self.annotations.hierarchy
        call, readers = calls[node], {at for n in graph.readers[value] if (at := calls[n]) is not None}
        if value in self.outputs:
            readers.add(ROOT_CALL)
        if call is None or graph.owner[node] != NOWHERE or graph.region[node]:
            return
        common = hierarchy.common({call, *readers})
        if common == call or (shape := self.shapes[value]) is None:
            return
        if value in self.constant:
            fits = bool(self.graph.reads[node]) and any(shape.agrees(t) for t in self.returned[call])
        else:
            left, users = hierarchy.below(common, call), self._users(value)
            taken = [self._take(at, shape, users) or self._take_transposed(at, shape, value) for at in left]
            fits = taken[0]
        if not fits:
            self.moved[node] = {call} | self._users(value)
            self.annotations.set(node, hierarchy.common(readers), Evidence.DATAFLOW)

    def _users(self, value: int) -> set[int]:
        """Give the calls that read a value; a node that was moved counts for the call it was in and for its users.

        One that is merged counts for all its calls.
        """
        users = {ROOT_CALL} if value in self.outputs else set[int]()
        for node in self.graph.readers[value]:
            call = self.annotations.call[node]
            own = self.annotations.merged.get(node, () if call is None else (call,))
            users.update(self.moved.get(node, own))
        return users

    def _take(self, call: int, shape: Shaped, users: set[int]) -> bool:
        """Let a value stand for a tensor that a call returned, of the same shape rather than of the same size."""
        left = self.left[call]
        candidates = [t for t in left if shape.fits(t) and any(self._reaches(t, call, shape, at) for at in users)]
        fitting = min(candidates, key=lambda t: t.shape != shape.dims, default=None)
        if fitting is not None:
            left.remove(fitting)
        return fitting is not None

    def _reaches(self, tensor: Tensor, call: int, shape: Shaped, reader: int) -> bool:
        """Tell whether what a call returned came to a reader outside: by their caller, as it is or made into another.

        Calls whose inputs were not seen could have got anything.
        """
        hierarchy = self.annotations.hierarchy
        meet = hierarchy.meet(call, reader)
        if meet in (call, reader):
            return meet != call
        entered = hierarchy.below(meet, reader)[-1]
        given, end = self.calls[entered].inputs, self.ended[call]
        return not given or any(t.id == tensor.id or (self.born[t.id] > end and shape.fits(t)) for t in given)

    def _take_transposed(self, call: int, shape: Shaped, value: int) -> bool:
        """Let a value stand for a returned tensor whose transposition its readers do: the call ends inside them."""
        left = self.left[call]
        fitting = next((t for t in left if shape.is_transposed(t)), None)
        if fitting is None:
            return False
        left.remove(fitting)
        annotations = self.annotations
        for reader in self.graph.readers[value]:
            at = annotations.call[reader]
            if at is not None and not annotations.hierarchy.within(at, call):
                annotations.merged[reader] = (*annotations.merged.get(reader, (at,)), call)
        return True

    def _folded(self, model: ModelProto, weights: WeightStore, sidecar: Sidecar) -> set[int]:
        """Give the ids of the returned tensors that are constants of the graph."""
        by_shape: dict[tuple[int | None, ...], list[Tensor]] = defaultdict(list)
        for tensor in {t.id: t for tensors in self.returned for t in tensors if math.prod(t.shape) > 1}.values():
            by_shape[tensor.shape].append(tensor)
        named = {full_name(module, weight) for module in sidecar.modules for weight in module.weights}
        wanted = [v for v, t in self.graph.initializers.items() if tuple(t.dims) in by_shape and t.name not in named]
        wanted += [v for v in self.constant if (s := self.shapes[v]) and s.dims in by_shape]
        found = set()
        for array in constant_arrays(model, self.graph, weights, self.shapes, wanted).values():
            summary = fingerprint(array)
            for tensor in by_shape.get(array.shape, ()):
                if summary and tensor.fingerprint and same_fingerprint(summary, tensor.fingerprint):
                    found.add(tensor.id)
        return found
