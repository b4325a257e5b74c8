"""Comparing the numbers of two tagged models: the tensors that leave the same modules in both."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from onnx import ModelProto

from mxtools.comparison.comparison import Comparison, Number
from mxtools.graph.index import graph_inputs
from mxtools.graph.types import as_type
from mxtools.matching.earlier_model import left_calls_of_main
from mxtools.pipeline.working_model import WorkingModel
from mxtools.runtime.distance import distance_of_values
from mxtools.runtime.session_values import Value
from mxtools.runtime.sessions import inner_values
from mxtools.scopes.hierarchy import ROOT_CALL

Pair = tuple[str, str]


def compare_numbers(found: Comparison, one: WorkingModel, other: WorkingModel) -> None:
    """Run both models and add the distances to a comparison's modules; the first model's numbers are the wanted ones.

    Both run on the first model's inputs: recorded or given ones, or made ones if there are none. Raises InputError if
    one of the models does not run.
    """
    modules = {module.scope: module for module in found.modules}
    feeds = one.inputs()
    pairs = _pairs(_leaving(one), _leaving(other))
    wanted, graph = list(dict.fromkeys(pair for of in pairs.values() for pair in of)), one.graph
    sizes = [one.shapes.bytes_of(graph.by_name[name]) for name, _ in wanted]
    runs = (
        inner_values(model.proto, model.weights, inputs, dict(zip([pair[side] for pair in wanted], sizes, strict=True)))
        for side, (model, inputs) in enumerate(((one, feeds), (other, _fitting(other.proto, one.proto, feeds))))
    )
    apart = {(a, b): distance_of_values(after, before) for (a, before), (b, after) in zip(*runs, strict=True)}
    for scope, of in pairs.items():
        modules[scope].numbers = [Number(*pair, apart[pair]) for pair in of if pair in apart]


def _leaving(model: WorkingModel) -> dict[str, list[str]]:
    """Return the tensors of the main graph that leave each call, by scope and in order; for the root, the outputs."""
    graph, annotations = model.graph, model.annotations
    scopes, found = annotations.hierarchy.scopes, defaultdict[str, list[str]](list)
    found[scopes[ROOT_CALL]] = [value.name for value in model.proto.graph.output]
    for value, calls in left_calls_of_main(graph, annotations).items():
        for call in calls:
            found[scopes[call]].append(graph.names[value])
    return found


def _pairs(a: Mapping[str, list[str]], b: Mapping[str, list[str]]) -> dict[str, list[Pair]]:
    """Return for each scope the pairs of tensors to compare: those with the same name, and the others in order.

    The others are paired only if both models have equally many of them. A tensor is in one pair only.
    """
    partner = {name: name for scope in a for name in set(a[scope]).intersection(b.get(scope, ()))}
    taken = set(partner)
    for scope, names in a.items():
        left = [name for name in names if name not in partner]
        free = [name for name in b.get(scope, ()) if name not in taken]
        if len(left) == len(free):
            partner |= dict(zip(left, free, strict=True))
            taken.update(free)
    together = {
        scope: [(name, partner[name]) for name in names if partner.get(name) in b.get(scope, ())]
        for scope, names in a.items()
    }
    return {scope: pairs for scope, pairs in together.items() if pairs}


def _fitting(other: ModelProto, one: ModelProto, feeds: Mapping[str, Value]) -> dict[str, Value]:
    """Return the inputs of one model for another: by name, or in order if its names differ; in its types."""
    asked, had = graph_inputs(other), [value.name for value in graph_inputs(one)]
    names = {value.name: value.name for value in asked}
    if not names.keys() <= feeds.keys() and len(asked) == len(had):
        names = dict(zip(names, had, strict=True))
    return {value.name: as_type(feeds[names[value.name]], value.type) for value in asked if names[value.name] in feeds}
