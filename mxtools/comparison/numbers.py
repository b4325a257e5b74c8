"""Comparing the numbers of two tagged models, at the tensors that leave the same modules in both."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx import ModelProto, ValueInfoProto, helper

from mxtools.comparison.comparison import Comparison, Number
from mxtools.cut.check import inputs_of, whole_inputs
from mxtools.graph.index import NOWHERE
from mxtools.graph.shapes import Array
from mxtools.matching.carried import left_calls
from mxtools.pipeline.context import Context
from mxtools.runtime.distance import distance
from mxtools.runtime.sessions import inner_values
from mxtools.scopes.hierarchy import ROOT_CALL

Pair = tuple[str, str]


def compare_numbers(
    found: Comparison, one: ModelProto, context: Context, other: ModelProto, others: Context, given: Context
) -> None:
    """Run both models and add the distances to a comparison's modules; the first model's numbers are the wanted ones.

    `given` has the inputs, recorded or given ones; what lacks is made. Raises InputError where one does not run.
    """
    modules = {module.scope: module for module in found.modules}
    feeds = whole_inputs(one, given)
    pairs = _pairs(_leaving(one, context), _leaving(other, others))
    wanted, graph = list(dict.fromkeys(pair for of in pairs.values() for pair in of)), context.graph(one)
    shapes = (context.shapes(one)[graph.by_name[name]] for name, _ in wanted)
    sizes = [8 * (shape.count or 0) if shape else 0 for shape in shapes]
    runs = (
        inner_values(model, of.weights, inputs, dict(zip([pair[side] for pair in wanted], sizes, strict=True)))
        for side, (model, of, inputs) in enumerate(
            ((one, context, feeds), (other, others, _fitting(other, one, feeds)))
        )
    )
    apart = {
        (a, b): distance(after, before)
        for (a, before), (b, after) in zip(*runs, strict=True)
        if isinstance(before, np.ndarray) and isinstance(after, np.ndarray)
    }
    for scope, of in pairs.items():
        modules[scope].numbers = [Number(*pair, apart[pair]) for pair in of if pair in apart]


def _leaving(model: ModelProto, context: Context) -> dict[str, list[str]]:
    """Give the tensors of the main graph that leave each call, by scope, in order; the root's are the outputs."""
    graph, annotations = context.graph(model), context.annotations(model)
    scopes, found = annotations.hierarchy.scopes, defaultdict[str, list[str]](list)
    found[scopes[ROOT_CALL]] = [value.name for value in model.graph.output]
    for value, calls in sorted(left_calls(graph, annotations).items()):
        if graph.home[value] == NOWHERE and graph.region[graph.producer[value]] == 0:
            for call in calls:
                found[scopes[call]].append(graph.names[value])
    return found


def _pairs(a: Mapping[str, list[str]], b: Mapping[str, list[str]]) -> dict[str, list[Pair]]:
    """Give for each scope the tensors that stand for each other: those of one name, else all, in order, if as many.

    A tensor stands for one only.
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


def _fitting(other: ModelProto, one: ModelProto, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Give the inputs of one model to another: by name, or in their order if they have other names; in its types."""
    asked, had = inputs_of(other), [value.name for value in inputs_of(one)]
    names = {value.name: value.name for value in asked}
    if not names.keys() <= feeds.keys() and len(asked) == len(had):
        names = dict(zip(names, had, strict=True))
    return {
        value.name: feeds[names[value.name]].astype(_dtype(value), copy=False)
        for value in asked
        if names[value.name] in feeds
    }


def _dtype(value: ValueInfoProto) -> Any:  # noqa: ANN401 - numpy's
    return helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
