"""How long each module takes alone; compared with its time in the whole model, this shows the gain of fusion.

A runtime fuses operators across the boundaries of modules, and plans memory for the whole model. A module that is cut
out has neither advantage. Modules with the same operators, attributes and shapes, such as the layers of an encoder,
take the same time, so only the first of them is run.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from statistics import median
from typing import TypeAlias

from mxtools.cut.cut import Cut, extracted
from mxtools.cut.surroundings import GivenNodes
from mxtools.errors import InputError
from mxtools.graph.index import Graph
from mxtools.graph.operators import operator_and_attributes
from mxtools.graph.shapes import Shapes
from mxtools.pipeline.working_model import WorkingModel
from mxtools.runtime.session_values import Value
from mxtools.runtime.sessions import Level, batches, inner_values, load_session, one_line_errors, session_options
from mxtools.scopes.hierarchy import ROOT_CALL

WARM_UP = 3
"""Runs that are not counted."""
Alike: TypeAlias = tuple[list[int], list[int]]
"""Calls of modules that take the same time, and the nodes of the first of them."""


def times_alone(
    model: WorkingModel,
    modules: Sequence[Alike],
    level: Level = Level.ALL,
    runs: int = 20,
    threads: int = 0,
    providers: Sequence[str] | None = None,
    step: Callable[[], object] = lambda: None,
) -> dict[str, float]:
    """Return the median time of a run of each of a model's `distinct_modules`, by scope, in microseconds.

    A module that cannot be cut out, or does not run alone, is left out. `step` is called after each module that ran.
    Raises InputError if the whole model does not run.
    """
    given, names = model.inputs(), model.graph.names
    cuts = [Cut(model.graph, set(nodes), GivenNodes(model.annotations, set(nodes))) for _, nodes in modules]
    parts = extracted(model.proto, cuts, model.weights)
    sizes = {number: sum(map(model.shapes.bytes_of, cut.inputs)) for number, cut in enumerate(cuts)}
    found: dict[str, float] = {}
    for numbers in batches(sizes):
        wanted = {names[v] for number in numbers for v in cuts[number].inputs} - given.keys()
        inner = inner_values(model.proto, model.weights, given, dict.fromkeys(sorted(wanted), 0)) if wanted else ()
        values = dict(inner)
        for number, part in zip(numbers, parts, strict=False):
            feeds = {names[v]: values.get(names[v], given.get(names[v])) for v in cuts[number].inputs}
            options = session_options(level)
            options.intra_op_num_threads = threads
            try:
                session = load_session(part, model.weights, options, providers)
                taken = median_time(session, feeds, runs)
            except InputError:  # it may need something that only the whole graph has
                continue
            finally:
                step()
            found |= {model.annotations.hierarchy.scopes[call]: taken for call in modules[number][0]}
    return found


def distinct_modules(model: WorkingModel) -> list[Alike]:
    """Return the modules of the main graph that take different times; InputError if no node has a scope."""
    model.require_tagged()
    nodes, keys = defaultdict[int, list[int]](list), dict[int, Hashable]()
    for node in model.graph.main:
        keys[node] = _key(model.graph, model.shapes, node)
        for call in model.annotations.hierarchy.lineage(model.annotations.call[node] or ROOT_CALL):
            nodes[call].append(node)
    alike = defaultdict[Hashable, list[int]](list)
    for call in sorted(nodes):
        alike[tuple(keys[node] for node in nodes[call])].append(call)
    return [(calls, nodes[calls[0]]) for calls in alike.values()]


def _key(graph: Graph, shapes: Shapes, node: int) -> Hashable:
    """Return a key that is equal for nodes that take the same time."""
    return operator_and_attributes(graph.nodes[node]), *(_shape(graph, shapes, value) for value in graph.reads[node])


def _shape(graph: Graph, shapes: Shapes, value: int) -> Hashable:
    weight = graph.initializers.get(value)
    if weight is not None:
        return weight.data_type, tuple(weight.dims)
    shape = shapes[value]
    return shape and (shape.kind, shape.dims)


def median_time(session: object, feeds: Mapping[str, Value], runs: int) -> float:
    """Return the median time of a run, in microseconds."""
    times = []
    with one_line_errors():
        for _ in range(WARM_UP + runs):
            start = time.perf_counter()
            session.run(None, dict(feeds))  # type: ignore[attr-defined]  # of an untyped library
            times.append(time.perf_counter() - start)
    return 1e6 * median(times[WARM_UP:])
