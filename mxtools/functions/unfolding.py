"""Put the nodes of model-local functions in the place of their calls: those that were folded, and other tools'.

Where calls remember what they stand for, the graph is as it was before: the names and tags of nodes and values, and
their order. What was folded last is unfolded first, since its nodes call the functions that were folded before:

    level 2    Layer(x, w)             level 1    Linear(x, w) -> a    Relu(a)            MatMul    Add    Relu

Every node is made once, so this takes time in the nodes and edges of the result, times the levels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, ClassVar

from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, ValueInfoProto

from mxtools.cut.inlining import import_of_function
from mxtools.errors import AbsentError, UsageError, suggestion
from mxtools.functions.calls import Callee, Inlined, Names, refill
from mxtools.functions.definitions import DOMAIN
from mxtools.functions.record import Record, in_places, record_of
from mxtools.graph.functions import every_node, model_nodes, used_functions
from mxtools.graph.index import bodies
from mxtools.graph.operators import OperatorKey, function_key, operator_key, plain_domain
from mxtools.graph.order import in_order_of_flow
from mxtools.graph.rename import names_in
from mxtools.pipeline.base import Report
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes import keys
from mxtools.scopes.selection import Selection, selected_calls


@dataclass(frozen=True)
class UnfoldRequest:
    """Which calls to unfold: those of some modules, those of functions of some names; without either, all."""

    selection: Selection = field(default_factory=Selection)
    functions: tuple[str, ...] = ()


@dataclass(frozen=True)
class UnfoldReport(Report):
    """How many calls were unfolded, which functions are gone, and why functions were left: the reason by name.

    `nodes` are those of the main graph, bodies not counted, before and after; `check` the differences of outputs; None
    where no check was asked for.
    """

    kind: ClassVar[str] = "unfold"

    calls: int
    functions: list[str]
    left: dict[str, str]
    nodes: tuple[int, int]
    check: list[dict[str, Any]] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data, for JSON."""
        found = {"calls": self.calls, "functions": self.functions, "left": self.left, "nodes": list(self.nodes)}
        return found if self.check is None else found | {"verify": self.check}


def unfold(model: WorkingModel, request: UnfoldRequest) -> UnfoldReport:
    """Put the nodes of functions in the place of their calls, in place.

    Raises UsageError where the model has no function of a name, or a selector matches nothing.
    """
    known = {function.name for function in model.proto.functions}
    for name in request.functions:
        if name not in known:
            raise UsageError(f"the model has no function {name!r}", suggestion(name, sorted(known)))
    scopes = _scopes(model, request.selection)
    before = len(model.proto.graph.node)
    with model.changing() as proto:
        work = _Unfolding(proto, _wanted(request, scopes))
        work.run()
    return UnfoldReport(work.calls, work.removed, work.left, (before, len(model.proto.graph.node)))


def _scopes(model: WorkingModel, selection: Selection) -> set[str] | None:
    """Return the scopes of the selected modules; None where nothing is selected."""
    if not selection.is_positive and not selection.exclude:
        return None
    model.require_tagged()
    annotations = model.annotations
    return {annotations.hierarchy.scopes[call] for call in selected_calls(annotations, selection)}


def _wanted(request: UnfoldRequest, scopes: set[str] | None) -> Callable[[NodeProto], bool]:
    """Return which calls of functions are to be unfolded."""

    def wanted(call: NodeProto) -> bool:
        by_name = not request.functions or call.op_type in request.functions
        return by_name and (scopes is None or keys.props(call).get(keys.SCOPE) in scopes)

    return wanted


class _Unfolding:
    """Unfolds calls in one model. Attributes: `calls`, how many; `removed` functions; `left`, with reasons."""

    def __init__(self, model: ModelProto, wanted: Callable[[NodeProto], bool]) -> None:
        self.model = model
        self.wanted = wanted
        self.callees = {function_key(function): Callee(function) for function in model.functions}
        self.done: set[OperatorKey] = set()
        self.calls = 0
        self.removed: list[str] = []
        self.left: dict[str, str] = {}

    def run(self) -> None:
        """Unfold what is wanted in the graph, then in the functions that are left; remove what nobody calls then."""
        model = self.model
        values = _names_of_values(model.graph)
        names = Names(node.name for node in every_node(model.graph.node))
        _Holder(self, model, values, names).unfold(model.graph)
        for function in self._used():
            infos = [ValueInfoProto(name=name) for name in function.input]
            values = _names_of_values(GraphProto(node=function.node, input=infos))
            _Holder(self, function, values, Names(n.name for n in every_node(function.node))).unfold(function)
        used = {function_key(function) for function in self._used()}
        gone = self.done - used
        self.removed = [function.name for function in model.functions if function_key(function) in gone]
        refill(model.functions, [function for function in model.functions if function_key(function) not in gone])
        if self.removed and not any(plain_domain(node.domain) == DOMAIN for node in model_nodes(model)):
            refill(model.opset_import, [entry for entry in model.opset_import if entry.domain != DOMAIN])

    def _used(self) -> list[FunctionProto]:
        return used_functions(self.model, self.model.graph.node)


def _names_of_values(graph: GraphProto) -> Names:
    """Return the names of values in a graph and its bodies, as names that are taken."""
    taken = names_in(graph)
    outside = names_in(graph, in_bodies=False)
    return Names(taken, taken - outside)


class _Holder:
    """The graph of a model, or a function, in which calls are unfolded; both import versions of operators."""

    def __init__(self, work: _Unfolding, importer: ModelProto | FunctionProto, values: Names, names: Names) -> None:
        self.work = work
        self.importer = importer
        self.values, self.names = values, names
        self.fits: dict[OperatorKey, bool] = {}
        self.in_body = False

    def unfold(self, holder: GraphProto | FunctionProto) -> None:
        """Unfold the calls in a graph or function, level by level: those without a record, then the highest."""
        before = self.work.calls
        nodes, infos = list(holder.node), list(holder.value_info)
        while True:
            nodes = self._without_records(nodes, infos)
            records = self._records(nodes)
            if not records:
                break
            nodes, infos = self._level(nodes, infos, records)
        if self.work.calls > before:
            if (order := in_order_of_flow(nodes)) != sorted(order):
                nodes = [nodes[place] for place in order]
            refill(holder.node, nodes)
            refill(holder.value_info, infos)

    def _records(self, nodes: Sequence[NodeProto]) -> dict[int, Record]:
        """Return the records of the calls to unfold, by their places in a list."""
        calls = ((place, node) for place, node in enumerate(nodes) if self._callee(node))
        return {place: record for place, node in calls if (record := record_of(node))}

    def _callee(self, node: NodeProto) -> Callee | None:
        """Return the function that a node calls, if it is to be unfolded and can be."""
        callee = self.work.callees.get(operator_key(node))
        if callee is None or not self.work.wanted(node):
            return None
        key = operator_key(node)
        if key not in self.fits:
            try:
                import_of_function(self.importer, callee.function)
                self.fits[key] = True
            except AbsentError as error:
                self.fits[key] = False
                self.work.left[callee.function.name] = error.problem
        return callee if self.fits[key] else None

    def _inlined(
        self, callee: Callee, call: NodeProto, record: Record | None, made: Mapping[str, NodeProto]
    ) -> Inlined:
        self.work.calls += 1
        self.work.done.add(function_key(callee.function))
        return callee.inlined(call, record, self.values, self.names, made, self.in_body)

    def _without_records(self, nodes: Iterable[NodeProto], infos: list[ValueInfoProto]) -> list[NodeProto]:
        """Return nodes with those of functions in the place of calls that have no record, also in bodies."""
        found: list[NodeProto] = []
        left = list(nodes)[::-1]
        while left:
            node = left.pop()
            callee = self._callee(node)
            if callee and record_of(node) is None:
                inner = self._inlined(callee, node, None, {})
                left += inner.nodes[::-1]
                infos += [info for _, info in inner.infos]
                continue
            for body in bodies(node):
                if any(self._callee(n) for n in every_node(body.node)):
                    outer, self.in_body = self.in_body, True
                    self.unfold(body)
                    self.in_body = outer
            found.append(node)
        return found

    def _level(
        self, nodes: Sequence[NodeProto], infos: Sequence[ValueInfoProto], records: dict[int, Record]
    ) -> tuple[list[NodeProto], list[ValueInfoProto]]:
        """Return nodes and infos with those of the calls of the highest level in their places, where all fit there."""
        level = max(record.level for record in records.values())
        chosen = {place: record for place, record in records.items() if record.level == level}
        placed: dict[int, NodeProto] = {}
        types: dict[int, ValueInfoProto] = {}
        loose: list[ValueInfoProto] = []
        inner: dict[int, list[NodeProto]] = {}
        made: dict[str, NodeProto] = {}
        for place, record in sorted(chosen.items(), key=lambda entry: bool(entry[1].copied)):
            callee = self._callee(nodes[place])
            if callee:
                if record.copied and not made:
                    made = {name: n for n in (*nodes, *chain(*inner.values())) for name in n.output}
                done = self._inlined(callee, nodes[place], record, made)
                inner[place] = done.nodes
                placed |= dict(zip(record.own, done.nodes, strict=False))
                types |= {at: info for at, info in done.infos if at >= 0}
                loose += [info for at, info in done.infos if at < 0]
        first = next(iter(chosen.values()))
        order = next((record.rest for record in chosen.values() if record.rest), [])
        rest = [node for place, node in enumerate(nodes) if place not in inner]
        whole = sum(map(len, inner.values())) == len(placed)
        restored = in_places(rest, placed, first.count, order) if whole else None
        if restored is None:
            restored = [n for place, node in enumerate(nodes) for n in inner.get(place, (node,))]
        typed = in_places(infos, types, first.info_count)
        return restored, (typed or [*infos, *(types[at] for at in sorted(types))]) + loose
