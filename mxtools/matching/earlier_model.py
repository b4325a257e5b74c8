"""Where the nodes and values of an earlier model are in the model that a tool made from it.

    earlier   x ─ MatMul(w1) ─m─ Add(b1) ─a─ Relu ─r─ MatMul(w2) ─n─ Add(b2) ─ y
    now       x ──────── FusedGemm(w1, b1) ───────2── MatMul(w2) ─3─ Add(b2) ─ y

No single kind of evidence is enough. Names are gone, or are used again for something else; weights are transposed or
quantised, or several are equal; values of a run agree only up to rounding; and positions shift with every node that a
tool removes. Each kind is right most of the time, but one wrong match makes its neighbours wrong too.

So the kinds of evidence are used one after the other, the most trusted first, and each only for what is still open:
names of inputs, outputs and weights (x, y, w1 …); names of values and of nodes, unless sizes contradict too many of
them; the content of weights; values of a run. After each kind, what is known is followed along the graph. Here x leads
nowhere, because no earlier node is a FusedGemm. But in both graphs an Add with b2 makes y, so 3 is n, and a MatMul with
w2 makes n, so 2 is r.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property
from math import prod

from mxtools.errors import InputError
from mxtools.graph.index import NOWHERE, Graph
from mxtools.graph.shapes import TensorShape
from mxtools.graph.walk import nodes_behind
from mxtools.matching.correspondence import Correspondence, ValueMatches
from mxtools.matching.elements import same_elements
from mxtools.matching.node_matches import NodeMatches
from mxtools.matching.surviving_names import SurvivingNames
from mxtools.matching.weight_matches import LEAST_ELEMENTS, WeightMatches
from mxtools.matching.weight_users import made_with, read_with
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes.annotations import Annotations, Evidence
from mxtools.scopes.hierarchy import ROOT_CALL
from mxtools.traces.values import Values


def match_earlier(model: WorkingModel) -> EarlierModelMatch | None:
    """Compare a model with its earlier model, None if it has none; for `WorkingModel.once`."""
    return EarlierModelMatch(model, model.previous) if model.previous else None


class EarlierModelMatch:
    """Which nodes and values of an earlier model correspond to those of a model.

    Attributes of the whole: `graph`; `earlier`, the earlier graph; `earlier_annotations`.

    Attributes by value: `earlier_values`, the earlier values that it stands for; `direct_evidence`, the evidence if the
    value is known by itself and not by its neighbours; `misunderstood`, the earlier value that it seemed to be.

    Attributes by node: `values_made`, the earlier values that it makes; `same_name`, the earlier node of the same name;
    `same_weights`, the earlier nodes that used the same weights.

    Attributes by earlier value: `values_now`, the values that stand for it; `earlier_same_elements`, the first earlier
    value that has the same elements. By earlier node: `node_now`, the node that does its work, or a negative number, as
    in `NodeMatches`.
    """

    def __init__(self, model: WorkingModel, previous: WorkingModel) -> None:
        """Compare the models by one kind of evidence after the other, the most trusted first.

        Raises InputError if the nodes of one of them have no order, since values are followed back to where they end,
        or if the models have nothing in common.
        """
        model.graph.require_order()
        previous.graph.require_order()
        self.graph, self.earlier, self.earlier_annotations = model.graph, previous.graph, previous.annotations
        self.earlier_same_elements = same_elements(self.earlier, previous.shapes)
        self._weight_matches, self._stored = WeightMatches(self.earlier, previous.weights), model.weights
        elements = same_elements(self.graph, model.shapes)
        found = Correspondence(self.graph, self.earlier, elements, self.earlier_same_elements, self._is_equal)
        names = SurvivingNames(model, previous)
        for known in (names.fixed, names.values, names.made):
            found.learn(known())
        # several weights of a model may be one earlier weight, as when a tool quantises only some of its uses
        found.learn(self._weights(found), Evidence.PARAMETER, copies=True)
        found.learn(names.quantised(), copies=True)
        if model.values:
            found.learn(_equal(model, previous, model.values), Evidence.VALUE)
        self._require_related(model, previous, found)
        found.learn(made_with(found, names.fits, sure=True), Evidence.PARAMETER)
        found.learn(read_with(found, names.fits), Evidence.PARAMETER)
        found.learn(made_with(found, names.fits), Evidence.PARAMETER)
        found.learn_quantised()
        self.earlier_values, self.direct_evidence = found.earlier_values, found.direct_evidence
        self.values_now, self.misunderstood = found.values_now, found.misunderstood
        nodes, self.same_name, part = NodeMatches(found), names.nodes, self.part
        self.values_made = nodes.values_made
        self.same_weights = {n: [t for t in twins if t in part] or twins for n, twins in nodes.same_weights.items()}
        self.node_now = [node if twin in part else NOWHERE for twin, node in enumerate(nodes.node_now)]

    def _require_related(self, model: WorkingModel, previous: WorkingModel, found: Correspondence) -> None:
        """Raise InputError if both models have weights, but share none, and no output or value either.

        Equal names of other values say little, since exporters number them: `val_12` is in every model. An output has
        to have as many dimensions as before, since there are many `logits`.
        """
        known, earlier = found.earlier_values, self.earlier.initializers
        mine, its = (
            [v for v, tensor in graph.initializers.items() if prod(tensor.dims) >= LEAST_ELEMENTS]
            for graph in (self.graph, self.earlier)
        )
        if not mine or not its or Evidence.VALUE in found.direct_evidence.values():
            return
        pairs = [(v, other) for v in (*self.graph.outputs, *mine) for other in known.get(v, ())]

        def is_shared(value: int, other: int) -> bool:
            """Return whether an earlier value is the same weight, or can be the same output."""
            if other in earlier:
                return self._is_same_weight(value, other)
            return _have_one_rank(model.shapes[value], previous.shapes[other])

        if any(is_shared(value, other) for value, other in pairs):
            return
        raise InputError(
            f"the earlier model is another one: {model.name} has none of its weights or outputs",
            "give the model from which this one was made",
        )

    def _is_equal(self, value: int, other: int) -> bool:
        tensor = self.graph.initializers.get(value)
        return tensor is not None and self._weight_matches.is_equal(tensor, self._stored, other)

    def _is_same_weight(self, value: int, other: int) -> bool:
        """Return whether a value is an earlier weight, however many elements that has."""
        tensor = self.graph.initializers.get(value)
        return tensor is not None and (
            self._is_equal(value, other) or other in self._weight_matches.find(tensor, self._stored)
        )

    def _weights(self, found: Correspondence) -> ValueMatches:
        """Return the weights that are not known yet, with the earlier weights that they equal or consist of."""
        weights, known = self.graph.initializers.items(), found.earlier_values
        return {v: self._weight_matches.find(tensor, self._stored) for v, tensor in weights if v not in known}

    @cached_property
    def part(self) -> Collection[int]:
        """The earlier nodes that lead from the graph's inputs to its outputs: not all, if it was cut out.

        It is all nodes if an output is not known to be an earlier value.
        """
        known, everything = self.earlier_values, range(len(self.earlier.nodes))
        if not all(value in known for value in self.graph.outputs):
            return everything
        begins = {other for value in self.graph.inputs for other in known.get(value, ())}
        ends = (known[value][0] for value in self.graph.outputs)
        behind = nodes_behind(self.earlier, ends, until=begins.__contains__)
        return {node for node in everything if self.earlier.region[node] or self.earlier.top(node) in behind}

    @cached_property
    def calls_left(self) -> dict[int, list[int]]:
        """The calls that each earlier value left, innermost first; only for values that left calls."""
        return left_calls(self.earlier, self.earlier_annotations)

    @cached_property
    def passing_calls(self) -> set[int]:
        """The earlier model's calls that returned just what they were given: they made no elements of their own."""
        own, passed = set[int](), set[int]()
        for value, calls in self.calls_left.items():
            maker = self.earlier.producer[self.earlier_same_elements[value]]
            at = None if maker == NOWHERE else self.earlier_annotations.call[maker]
            inside = set() if at is None else set(self.earlier_annotations.hierarchy.lineage(at))
            own.update(inside.intersection(calls))
            passed.update(call for call in calls if call not in inside)
        return passed - own

    @cached_property
    def calls_left_by_elements(self) -> dict[int, set[int]]:
        """The calls that each earlier value left, or that a value with the same elements left."""
        found: dict[int, set[int]] = {}
        for value, calls in self.calls_left.items():
            for same in {value, self.earlier_same_elements[value]}:
                found.setdefault(same, set()).update(calls)
        return found

    @cached_property
    def earlier_nodes(self) -> dict[int, list[int]]:
        """The earlier nodes whose work each node does."""
        found: dict[int, list[int]] = {}
        for twin, node in enumerate(self.node_now):
            found.setdefault(node, []).append(twin)
        return found

    @cached_property
    def calls_done(self) -> dict[int, set[int]]:
        """The calls whose work each node does: those of the earlier nodes it stands for, and all around them."""
        found: dict[int, set[int]] = {}
        for twin, node in enumerate(self.node_now):
            call = self.earlier_annotations.call[twin]
            if node >= 0 and call is not None:
                found.setdefault(node, set()).update(self.earlier_annotations.hierarchy.lineage(call))
        return found

    @cached_property
    def calls_led_to(self) -> dict[int, set[int]]:
        """As `calls_done`; a node without own work, such as a Reshape of a tool, gets its readers' calls."""
        found = dict(self.calls_done)
        for node in range(len(self.graph.nodes) - 1, -1, -1):
            if node not in found:
                found[node] = set[int]().union(*(found[reader] for reader in self.graph.targets(node)))
        return found

    @cached_property
    def calls_ended(self) -> dict[int, set[int]]:
        """The calls that each node ends: those that a value left which the node makes now."""
        found: dict[int, set[int]] = {}
        for value, calls in self.calls_left.items():
            if (maker := self.earlier.producer[value]) != NOWHERE and (node := self.node_now[maker]) >= 0:
                found.setdefault(node, set()).update(calls)
        return found

    @cached_property
    def calls_read_from(self) -> dict[int, set[int]]:
        """The calls whose results each node reads, and the calls around them that these results left too."""
        found: dict[int, set[int]] = {}
        for value, calls in self.calls_left.items():
            for twin in self.earlier.readers[value]:
                found.setdefault(self.node_now[twin], set()).update(calls)
        return found


def _have_one_rank(one: TensorShape | None, other: TensorShape | None) -> bool:
    """Return whether two values can have equally many dimensions."""
    dims = one and one.dims, other and other.dims
    return None in dims or len(dims[0] or ()) == len(dims[1] or ())


def left_calls(graph: Graph, annotations: Annotations) -> dict[int, list[int]]:
    """Return the values that leave calls, each with these calls, innermost first; a node outside of them reads it.

    A node of an equal call reads what its own call made, so for that the value does not leave.
    """
    hierarchy, outputs, found = annotations.hierarchy, set(graph.outputs), dict[int, list[int]]()
    for node, call in enumerate(annotations.call):
        if call is None:
            continue
        for value in graph.writes[node]:
            readers = {at for n in graph.readers[value] if (at := annotations.call[n]) is not None}
            calls = {at for at in readers if annotations.serving(node, call, at) == call}
            common = ROOT_CALL if value in outputs else hierarchy.common({*calls, call})
            if common != call:
                found[value] = hierarchy.path_below(common, call)
    return found


def left_calls_of_main(graph: Graph, annotations: Annotations) -> dict[int, list[int]]:
    """Return those of `left_calls` that are values of the main graph, in order."""
    found = sorted(left_calls(graph, annotations).items())
    return {v: calls for v, calls in found if graph.home[v] == NOWHERE and not graph.region[graph.producer[v]]}


def _equal(model: WorkingModel, previous: WorkingModel, values: Values) -> ValueMatches:
    """Return the values that are equal in a run of both models; the imports for a run happen only here."""
    from mxtools.matching.equal_values import equal_values

    return equal_values(model, previous, values)
