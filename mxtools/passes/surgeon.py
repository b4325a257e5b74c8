"""The pass `surgeon`."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import MISSING, dataclass
from typing import Any, ClassVar

from onnx import ModelProto

from mxtools.errors import InputError, UsageError
from mxtools.graph.index import NOWHERE, Graph
from mxtools.pipeline.context import Context, Pass, option
from mxtools.runtime import scripts
from mxtools.runtime.quiet import described, where_raised


@dataclass(frozen=True)
class Surgeon(Pass):
    """Edit the graph with a function of your own that is given an onnx_graphsurgeon.Graph.

    The function edits the graph in place, or returns one. What it leaves as it is stays so to the byte: tags, metadata,
    doc strings and all else that graphsurgeon drops are put back. A node whose operator, inputs or attributes changed
    keeps its tag; new ones have none until `mx tag` runs again. Weights are read when the function reads their values.
    """

    name: ClassVar[str] = "surgeon"

    script: str = option("the function: FILE.py:FUNCTION or package.module:FUNCTION; its code is run", MISSING)

    def apply(self, model: ModelProto, context: Context) -> None:
        """Run the function; what it prints goes to stderr.

        Raises UsageError where the script names no function, InputError where it raises, gives no graph, or makes one
        that cannot be written or whose nodes are not in order.
        """
        if ":" not in self.script:
            raise UsageError(f"script {self.script!r} names no function: write FILE.py:FUNCTION")
        function = scripts.find(self.script)
        if not callable(function):
            raise UsageError(f"{self.script} is a {type(function).__name__}, no function: name one that takes a graph")
        with contextlib.redirect_stdout(sys.stderr):
            edited = self._edited(model, context, function)
        _check_order(edited, self.script)
        model.CopyFrom(edited)

    def _edited(self, model: ModelProto, context: Context, function: Any) -> ModelProto:  # noqa: ANN401
        import onnx_graphsurgeon

        from mxtools.surgeon.surgery import Surgery
        from mxtools.surgeon.threeway import merged

        try:
            surgery = Surgery(model, context.weights)
        except Exception as error:  # it has no class of exceptions of its own for this
            raise InputError(
                f"onnx-graphsurgeon cannot read the graph ({described(error)}): leave out the pass"
            ) from error
        try:
            returned = function(surgery.graph)
        except (Exception, SystemExit) as error:
            raise InputError(f"{self.script} raised {described(error)} ({where_raised(error)}): repair it") from error
        after = surgery.graph if returned is None else returned
        if not isinstance(after, onnx_graphsurgeon.Graph):
            raise InputError(f"{self.script} gives a {type(after).__name__}: let it return the graph, or nothing")
        try:
            return merged(surgery, after)
        except Exception as error:
            raise InputError(f"what {self.script} made cannot be written ({described(error)}): repair it") from error


def _check_order(model: ModelProto, spec: str) -> None:
    """Refuse a graph in which a node reads what is not there, or is made only after it."""
    graph = Graph(model)
    there = {*graph.inputs, *graph.stored}
    for node, needs in enumerate(graph.needs):
        if graph.owner[node] == NOWHERE and graph.region[node] == 0:
            missing = next((v for v in needs if v not in there and not 0 <= graph.producer[v] < node), None)
            if missing is not None:
                raise InputError(
                    f"after {spec}, {graph.nodes[node].op_type} {graph.nodes[node].name!r} reads "
                    f"{graph.names[missing]!r}, which nothing makes before it: end with graph.cleanup().toposort()"
                )
