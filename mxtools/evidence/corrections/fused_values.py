"""Nodes that do the work of several modules, found by recorded values: they show where a call ended.

    x ─ FusedConv ─a─ GlobalAveragePool ─ y       PyTorch ran: conv, given x, returned c; bn, given c, returned b;
        conv          pool      by parameters                  act, given b, returned a
        act           pool      what is right

The FusedConv reads the weight of `conv`, so `conv` has it. But its output equals a, which `act` returned, and c is no
value of the graph: `conv` ended inside of the node. The obvious rule, that a node belongs to whoever returned its
output, is not enough: the node must also do the work of its own call, or a wrong guess would merge what is not merged.
So a walk goes back through the trace, from a to b to c. It stops at tensors that are values of the graph, and at
results of calls that have other nodes. It comes to `conv`, and `merged` lists the calls that it met.

A node can also be in the right call and yet do the end of another one's work: ONNX Runtime's SkipLayerNormalization
reads the bias of the Linear before it. It counts if the node reads a weight of that call, and that call's result is no
value of the graph.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from mxtools.errors import InputError
from mxtools.evidence.absent import is_vacuous
from mxtools.evidence.calls.index import call_index
from mxtools.graph.walk import reached
from mxtools.matching.traced_values import recorded_matches
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes.annotations import INDIRECT, Evidence
from mxtools.traces.traced_calls import calls_returning, ending_with, operations_making

if TYPE_CHECKING:
    from mxtools.traces.sidecar import Sidecar, TracedTensor


def assign_fused_by_values(model: WorkingModel, sidecar: Sidecar, with_nodes: set[int]) -> set[int]:
    """Give fused nodes to the calls whose results they make by recorded values, and return the calls merged there.

    `with_nodes` has the calls that have nodes; those that get one are added. Does nothing without recorded values, or
    if the graph does not run.
    """
    if not model.values:
        return set()
    done = with_nodes | model.annotations.equal.keys()
    open_ = {c for c, call in enumerate(sidecar.calls) if c not in done and not is_vacuous(call)}
    weights = _ReadWeights(model)
    if not (open_ or weights.several):
        return set()
    try:
        matches = model.once(recorded_matches)
    except InputError:  # `project-values` has warned, or did not need them
        return set()
    return _FusedByValues(model, sidecar, matches, with_nodes, open_, weights).assign()


class _ReadWeights:
    """The modules whose weights nodes read, by name.

    Attributes: `modules`, by node; `several`, the nodes that read weights of several modules.
    """

    def __init__(self, model: WorkingModel) -> None:
        graph, index = model.graph, model.once(call_index)
        self.modules = defaultdict[int, set[str]](set)
        for value, tensor in graph.initializers.items():
            if index and tensor.name in index.weights:
                for node in graph.readers[value]:
                    self.modules[node].add(index.weights[tensor.name][0].path)
        self.several = {node for node, modules in self.modules.items() if len(modules) > 1}


class _FusedByValues:
    """Nodes whose output some call returned, and the calls that ended inside of them.

    Attributes: `found`, the ids of the tensors that each value equals; `open`, the calls without nodes that did
    something; `returning`, the calls that returned each tensor, the outermost first; `tensors`, those of the trace, by
    id; `sources`, the tensors that each tensor was made of; `node_count`, how many nodes each call has of its own.
    """

    def __init__(
        self,
        model: WorkingModel,
        sidecar: Sidecar,
        matches: dict[int, list[int]],
        with_nodes: set[int],
        open_: Collection[int],
        weights: _ReadWeights,
    ) -> None:
        self.graph, self.annotations, self.calls = model.graph, model.annotations, sidecar.calls
        self.matches, self.with_nodes, self.open, self.weights = matches, with_nodes, open_, weights
        self.found: dict[int, list[int]] = defaultdict(list)
        for tensor, values in matches.items():
            for value in values:
                self.found[value].append(tensor)
        self.returning = calls_returning(sidecar)
        self.tensors: dict[int, TracedTensor] = {
            t.id: t for call in sidecar.calls for t in (*call.inputs, *call.outputs, *call.leaves)
        }
        self.sources = {tensor: set(made.inputs) for tensor, made in operations_making(sidecar).items()}
        for tensor, by in self.returning.items():
            self.sources.setdefault(tensor, {t.id for t in sidecar.calls[by[-1]].inputs})
        self.node_count = Counter(call for call in self.annotations.call if call is not None)

    def assign(self) -> set[int]:
        """Give each fused node to its call, in the order of the nodes, and return the calls merged there."""
        merged = set[int]()
        for node in self.graph.main:
            call = self.annotations.call[node]
            if call is None or self.graph.is_constant(node):
                continue
            made = [tensor for value in self.graph.writes[node] for tensor in sorted(self.found.get(value, ()))]
            own = [tensor for tensor in made if call in self.returning.get(tensor, ())]
            if own and node in self.weights.several:
                merged.update(self._merge(node, call, own[0]))
            elif made and not own:
                merged.update(self._move(node, call, made))
        return merged

    def _merge(self, node: int, call: int, tensor: int) -> list[int]:
        """Enter the calls that end inside of a node that makes what its own call returned; return them."""
        within = self.annotations.hierarchy.within
        ended = [c for c in self._ended(tensor, call, node) if c in self.with_nodes and not within(c, call)]
        return self._enter(node, ended, call)

    def _move(self, node: int, call: int, made: list[int]) -> list[int]:
        """Give a node to the call without nodes that returned one of the tensors, if its own ends in it too."""
        for tensor in made:
            maker = self.returning.get(tensor, (call,))[-1]
            ended = self._ended(tensor, call, node) if maker in self.open and maker not in self.with_nodes else []
            if call in ended:
                merged = self._enter(node, ended, maker)
                word = self.annotations.evidence[node]
                self.annotations.set(node, maker, Evidence.VALUE if word is None or word in INDIRECT else word)
                self.with_nodes.update(self.annotations.hierarchy.lineage(maker))
                return merged
        return []

    def _enter(self, node: int, ended: list[int], call: int) -> list[int]:
        """Let calls end inside of a node of a call, with the calls around them that end with them; return them."""
        around = [a for c in ended for a in (*ending_with(self.calls, c, call), c)]
        done = [c for c in dict.fromkeys((*around, *self.annotations.calls_done(node))) if c != call]
        if ended:
            self.annotations.merged[node] = (*done, call)
        return around

    def _ended(self, tensor: int, call: int, node: int) -> list[int]:
        """Return the calls that end between a tensor and the values of the graph behind it, in order.

        `call` is that of the node that makes the tensor.
        """
        ended = set[int]()

        def behind(at: int) -> Iterator[int]:
            """Yield the tensors of which a tensor was made, unless the work behind it is that of other nodes."""
            if at != tensor:
                if self.matches.get(at) or not self._can_match(at):
                    return
                maker = self.returning.get(at, (None,))[-1]
                if maker is not None and (maker in self.open or self._reads_weight_of(node, maker) or maker == call):
                    ended.add(maker)
                if maker in self.with_nodes and not (maker == call and self.node_count[call] == 1):
                    return
            yield from self.sources.get(at, ())

        reached((tensor,), behind)
        return sorted(ended)

    def _reads_weight_of(self, node: int, call: int) -> bool:
        return self.calls[call].module in self.weights.modules.get(node, ())

    def _can_match(self, tensor: int) -> bool:
        """Return whether values can be recognised as a tensor, or nobody knows it but those who made and read it."""
        known = self.tensors.get(tensor)
        summary = known.fingerprint if known else None
        return known is None or (summary is not None and summary[0] > 1 and summary[1] != summary[2])
