"""How long each module takes when it runs alone: beside its time in the whole model, this shows what fusion is worth.

A runtime fuses operators across the boundaries of modules, and plans memory for the whole model. A module that is cut
out has neither. Modules with the same operators, attributes and shapes, such as the layers of an encoder, take the same
time, so only the first of them is run.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from statistics import median

from mxtools.cut.cut import Cut, extracted
from mxtools.cut.surroundings import GivenNodes
from mxtools.errors import InputError
from mxtools.graph.index import Graph
from mxtools.graph.shapes import Shapes
from mxtools.pipeline.working_model import WorkingModel
from mxtools.runtime.session_values import Value
from mxtools.runtime.sessions import Level, batches, inner_values, load_session, one_line_errors, session_options
from mxtools.scopes.hierarchy import ROOT_CALL

WARM_UP = 3
"""Runs that are not counted."""


def times_alone(
    model: WorkingModel,
    level: Level = Level.ALL,
    runs: int = 20,
    threads: int = 0,
    providers: Sequence[str] | None = None,
    step: Callable[[], object] = lambda: None,
) -> dict[str, float]:
    """Return the median time of a run of each module of the main graph, by scope, in microseconds.

    A module that cannot be cut out, or does not run alone, has none. `step` is called after each module that ran.
    Raises InputError if the whole model does not run, or no node has a scope.
    """
    model.require_tagged()
    given, names = model.inputs(), model.graph.names
    alike = defaultdict[Hashable, list[int]](list)
    nodes = _nodes(model)
    for call, own in nodes.items():
        alike[_key(model.graph, model.shapes, own)].append(call)
    cuts = {key: _cut(model, nodes[calls[0]]) for key, calls in alike.items()}
    parts = dict(zip(cuts, extracted(model.proto, list(cuts.values()), model.weights), strict=True))
    sizes = {key: sum(_bytes(model.shapes, v) for v in cut.inputs) for key, cut in cuts.items()}
    found: dict[str, float] = {}
    for keys in batches(sizes):
        wanted = {names[v] for key in keys for v in cuts[key].inputs} - given.keys()
        inner = inner_values(model.proto, model.weights, given, dict.fromkeys(sorted(wanted), 0)) if wanted else ()
        values = dict(inner)
        for key in keys:
            feeds = {names[v]: values.get(names[v], given.get(names[v])) for v in cuts[key].inputs}
            options = session_options(level)
            options.intra_op_num_threads = threads
            try:
                session = load_session(parts[key], model.weights, options, providers)
                taken = _time(session, feeds, runs)
            except InputError:  # it may need what only the whole graph has
                continue
            finally:
                step()
            found |= {model.annotations.hierarchy.scopes[call]: taken for call in alike[key]}
    return found


def distinct_modules(model: WorkingModel) -> int:
    """Return how many modules `times_alone` runs."""
    return len({_key(model.graph, model.shapes, nodes) for nodes in _nodes(model).values()})


def _nodes(model: WorkingModel) -> dict[int, list[int]]:
    """Return the nodes of the main graph in each call, those of calls inside it included."""
    found = defaultdict[int, list[int]](list)
    for node in model.graph.main:
        for call in model.annotations.hierarchy.lineage(model.annotations.call[node] or ROOT_CALL):
            found[call].append(node)
    return dict(sorted(found.items()))


def _cut(model: WorkingModel, nodes: Sequence[int]) -> Cut:
    chosen = set(nodes)
    return Cut(model.graph, chosen, GivenNodes(model.annotations, chosen))


def _key(graph: Graph, shapes: Shapes, nodes: Sequence[int]) -> Hashable:
    """Return what modules have in common that take the same time."""

    def of_node(node: int) -> Iterator[Hashable]:
        proto = graph.nodes[node]
        yield proto.domain
        yield proto.op_type
        yield tuple(sorted(attribute.SerializeToString(deterministic=True) for attribute in proto.attribute))
        yield tuple(_shape(graph, shapes, value) for value in graph.reads[node])

    return tuple(tuple(of_node(node)) for node in nodes)


def _shape(graph: Graph, shapes: Shapes, value: int) -> Hashable:
    weight = graph.initializers.get(value)
    if weight is not None:
        return weight.data_type, tuple(weight.dims)
    shape = shapes[value]
    return shape and (shape.kind, shape.dims)


def _bytes(shapes: Shapes, value: int) -> int:
    shape = shapes[value]
    return 8 * (shape.count or 0) if shape else 0


def _time(session: object, feeds: Mapping[str, Value], runs: int) -> float:
    """Return the median time of a run, in microseconds."""
    times = []
    with one_line_errors():
        for _ in range(WARM_UP + runs):
            start = time.perf_counter()
            session.run(None, dict(feeds))  # type: ignore[attr-defined]  # of an untyped library
            times.append(time.perf_counter() - start)
    return 1e6 * median(times[WARM_UP:])
