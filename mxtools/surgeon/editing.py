"""Run a user's function on a model as an onnx-graphsurgeon graph, and take over the function's changes."""

from __future__ import annotations

from typing import Any

import onnx_graphsurgeon
from onnx import ModelProto

from mxtools.errors import InputError, UsageError
from mxtools.graph.index import Graph
from mxtools.pipeline.working_model import WorkingModel
from mxtools.runtime import scripts
from mxtools.runtime.quiet import error_line, where_raised
from mxtools.surgeon.surgery import Surgery
from mxtools.surgeon.three_way_merge import merged


def edit(model: WorkingModel, script: str) -> None:
    """Run the function that a script names on a model's graph, in place.

    Raises UsageError if the script names no function. Raises InputError if the function raises, returns something other
    than a graph, or leaves a graph that cannot be written or whose nodes are out of order.
    """
    if ":" not in script:
        raise UsageError(f"script {script!r} does not name a function", "write FILE.py:FUNCTION")
    function = scripts.find(script)
    if not callable(function):
        raise UsageError(f"{script} is a {type(function).__name__}, not a function", "name one that takes a graph")
    with model.changing() as proto:
        edited = _edited(model, function, script)
        _check_order(edited, script)
        proto.CopyFrom(edited)


def _edited(model: WorkingModel, function: Any, script: str) -> ModelProto:  # noqa: ANN401
    try:
        surgery = Surgery(model.proto, model.weights)
    except Exception as error:  # onnx-graphsurgeon has no exception class of its own
        raise InputError(
            f"onnx-graphsurgeon cannot read the graph ({error_line(error)})", "leave out the pass"
        ) from error
    try:
        returned = function(surgery.graph)
    except (Exception, SystemExit) as error:
        raise InputError(f"{script} raised {error_line(error)} ({where_raised(error)})", "fix it") from error
    after = surgery.graph if returned is None else returned
    if not isinstance(after, onnx_graphsurgeon.Graph):
        raise InputError(f"{script} returned a {type(after).__name__}", "let it return the graph, or nothing")
    try:
        return merged(surgery, after)
    except Exception as error:
        raise InputError(f"the result of {script} cannot be written ({error_line(error)})", "fix it") from error


def _check_order(model: ModelProto, spec: str) -> None:
    """Raise InputError if a node reads a tensor that nothing makes, or that a later node makes."""
    graph = Graph(model)
    if unmade := graph.first_unmade():
        node, value = unmade
        raise InputError(
            f"after {spec}, {graph.nodes[node].op_type} {graph.nodes[node].name!r} reads {graph.names[value]!r}, "
            "which no node before it makes",
            "end with graph.cleanup().toposort()",
        )
