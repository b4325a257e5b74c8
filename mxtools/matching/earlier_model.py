"""What of an earlier model is where in one that a tool made from it."""

from __future__ import annotations

from functools import cached_property

from mxtools.graph.index import NOWHERE, Graph
from mxtools.matching.correspondence import Correspondence, ValueMatches
from mxtools.matching.elements import same_elements
from mxtools.matching.node_matches import NodeMatches
from mxtools.matching.surviving_names import SurvivingNames
from mxtools.matching.weight_matches import WeightMatches
from mxtools.matching.weight_users import made_with
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes.annotations import Annotations, Evidence
from mxtools.scopes.hierarchy import ROOT_CALL
from mxtools.traces.values import Values


def match_earlier(model: WorkingModel) -> EarlierModelMatch | None:
    """Return what of the earlier model is where in a model, None without an earlier one; for `WorkingModel.once`."""
    return EarlierModelMatch(model, model.previous) if model.previous else None


class EarlierModelMatch:
    """The nodes of a model that do the work of those of an earlier one.

    Attributes: `graph`; `earlier`, the earlier graph; `was`, its annotations; `elements`, for its values the first that
    has the same elements; `of`, values to the earlier values that they stand for; `known`, for values the evidence of
    those that are known by themselves; `made`, by node, the earlier values that it makes; `named`, nodes to the earlier
    ones of the same name; `covered`, to those that used the same weights; `host`, by earlier node, the node that does
    its work.
    """

    def __init__(self, model: WorkingModel, previous: WorkingModel) -> None:
        """Compare the models, by one kind of evidence after the other, in the order of trust."""
        self.graph, self.earlier, self.earlier_annotations = model.graph, previous.graph, previous.annotations
        self.earlier_same_elements = same_elements(self.earlier, previous.shapes)
        self._weight_matches, self._stored = WeightMatches(self.earlier, previous.weights), model.weights
        elements = same_elements(self.graph, model.shapes)
        found = Correspondence(self.graph, self.earlier, elements, self.earlier_same_elements, self._is_equal)
        names = SurvivingNames(model, previous)
        for known in (names.fixed, names.values, names.made):
            found.learn(known())
        found.learn(self._weights(found), Evidence.PARAMETER, copies=True)
        if model.values:
            found.learn(_equal(model, previous, model.values), Evidence.VALUE)
        found.learn(made_with(found, names.fits), Evidence.PARAMETER)
        nodes = NodeMatches(found)
        self.earlier_values, self.direct_evidence, self.same_name = found.earlier_values, found.direct_evidence, names.nodes
        self.values_made, self.same_weights, self.node_now = nodes.values_made, nodes.same_weights, nodes.node_now

    def _is_equal(self, value: int, other: int) -> bool:
        tensor = self.graph.initializers.get(value)
        return tensor is not None and self._weight_matches.is_equal(tensor, self._stored, other)

    def _weights(self, found: Correspondence) -> ValueMatches:
        """Give the weights of which no name tells what they were, with the earlier weights that they are made of."""
        left = ((value, tensor) for value, tensor in self.graph.initializers.items() if value not in found.earlier_values)
        return {value: self._weight_matches.find(tensor, self._stored) for value, tensor in left}

    @cached_property
    def calls_left(self) -> dict[int, list[int]]:
        """For earlier values the calls that they left, innermost first."""
        return left_calls(self.earlier, self.earlier_annotations)

    @cached_property
    def passing_calls(self) -> set[int]:
        """The calls that gave just what they were given, as far as elements and their order tell."""
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
        """For earlier values the calls that they, or what has the same elements, left."""
        found: dict[int, set[int]] = {}
        for value, calls in self.calls_left.items():
            for same in {value, self.earlier_same_elements[value]}:
                found.setdefault(same, set()).update(calls)
        return found

    @cached_property
    def calls_done(self) -> dict[int, set[int]]:
        """For nodes the calls, and those above them, of the earlier nodes whose work they do."""
        found: dict[int, set[int]] = {}
        for twin, node in enumerate(self.node_now):
            call = self.earlier_annotations.call[twin]
            if node >= 0 and call is not None:
                found.setdefault(node, set()).update(self.earlier_annotations.hierarchy.lineage(call))
        return found

    @cached_property
    def calls_read_from(self) -> dict[int, set[int]]:
        """For nodes the calls that what they read left before, as the earlier nodes tell whose work they do."""
        found: dict[int, set[int]] = {}
        for value, calls in self.calls_left.items():
            for twin in self.earlier.readers[value]:
                found.setdefault(self.node_now[twin], set()).update(calls)
        return found


def left_calls(graph: Graph, annotations: Annotations) -> dict[int, list[int]]:
    """Give for values the calls that they leave, innermost first: somebody outside reads them."""
    hierarchy, outputs, found = annotations.hierarchy, set(graph.outputs), dict[int, list[int]]()
    for node, call in enumerate(annotations.call):
        if call is None:
            continue
        for value in graph.writes[node]:
            calls = {at for n in graph.readers[value] if (at := annotations.call[n]) is not None}
            common = ROOT_CALL if value in outputs else hierarchy.common({*calls, call})
            if common != call:
                found[value] = hierarchy.path_below(common, call)
    return found


def _equal(model: WorkingModel, previous: WorkingModel, values: Values) -> ValueMatches:
    """Compare the values of both models; what running them needs is imported only here."""
    from mxtools.matching.equal_values import equal_values

    return equal_values(model, previous, values)
