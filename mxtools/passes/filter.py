"""The pass `filter`."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import ClassVar

from onnx import ModelProto

from mxtools.annotations import INDIRECT, Annotations, read_absent
from mxtools.context import Context, Pass, option
from mxtools.cut import extract
from mxtools.errors import AbsentError, InputError, UsageError
from mxtools.graph import NOWHERE, Graph
from mxtools.select import Selection


@dataclass(frozen=True)
class Filter(Pass):
    """Cut the selected modules out, as a model that runs."""

    name: ClassVar[str] = "filter"

    scope: tuple[str, ...] = option("scopes: a glob selects itself and all below it; '.' is everything", ())
    tag: tuple[str, ...] = option("tags: a glob, '/BertModel/**/BertAttention'", ())
    class_: tuple[str, ...] = option("class names: 'BertAttention'", ())
    op: tuple[str, ...] = option("of what is selected, only these operators", ())
    exclude: tuple[str, ...] = option("scopes to leave out: a glob", ())

    def apply(self, model: ModelProto, context: Context) -> None:
        """Reduce the model to the selected nodes and what they need; report, under "filter": nodes, inputs, outputs.

        Raises UsageError where nothing is selected, AbsentError where the module is there no more or in part.
        """
        graph, annotations = context.graph(model), context.annotations(model)
        if not any(annotations.evidence):
            raise InputError("no node has a scope: run `mx tag` first")
        if not (self.scope or self.tag or self.class_ or self.op):
            raise UsageError("nothing is selected: give --scope, --tag, --class or --op")
        chosen = self._chosen(graph, annotations, read_absent(model))
        extract(model, graph, chosen, _foreign(graph, annotations, chosen))
        context.report["filter"] = {
            "nodes": len(model.graph.node),
            "inputs": [value.name for value in model.graph.input],
            "outputs": [value.name for value in model.graph.output],
        }

    def _chosen(self, graph: Graph, annotations: Annotations, absent: dict[str, str]) -> set[int]:
        """Give the selected nodes of the main graph."""
        hierarchy = annotations.hierarchy
        borne = {call for call in annotations.call if call is not None}
        known = (
            borne | {a for call in borne for a in hierarchy.lineage(call)} | set(chain(*annotations.merged.values()))
        )
        selection = Selection(self.scope, self.tag, self.class_, self.exclude)
        known = {call for call in known if hierarchy.scopes[call] not in absent}
        scopes = selection.places({hierarchy.scopes[c]: hierarchy.tags[c] for c in known}, absent)
        calls = {c for c in known if hierarchy.scopes[c] in scopes}
        nodes = {n for n, call in enumerate(annotations.call) if call in calls and self._takes(graph, n)}
        _refuse_merged(annotations, calls)
        if not nodes:
            raise UsageError(f"no selected node is a {' or '.join(self.op)}: see `mx tree`")
        chosen = {n for n in nodes if graph.owner[n] == NOWHERE and graph.region[n] == 0}
        if not chosen:
            holder = graph.nodes[graph.top(min(nodes))]
            raise AbsentError(
                f"what is selected is in the body of {holder.op_type} {holder.name!r}: select the module that holds it"
            )
        return chosen

    def _takes(self, graph: Graph, node: int) -> bool:
        return not self.op or graph.nodes[node].op_type in self.op


def _foreign(graph: Graph, annotations: Annotations, chosen: set[int]) -> set[int]:
    """Give the nodes whose results the selected modules were given: those of calls beside them, and of their callers.

    A caller's node without direct evidence says nothing of who computed it: exporters share constants that way.
    """
    hierarchy = annotations.hierarchy
    inside = {call for n in chosen if (call := annotations.call[n]) is not None}
    callers = {ancestor for call in inside for ancestor in hierarchy.lineage(call)} - inside
    return {
        n
        for n, (call, word) in enumerate(zip(annotations.call, annotations.evidence, strict=True))
        if call is not None and call not in inside and graph.reads[n] and (call not in callers or word not in INDIRECT)
    }


def _refuse_merged(annotations: Annotations, calls: set[int]) -> None:
    """Refuse a selection that ends inside a node outside of it, which does other modules' work too."""
    hierarchy = annotations.hierarchy
    outermost = {call for call in calls if hierarchy.parent[call] not in calls}
    for node, merged in annotations.merged.items():
        ending = outermost.intersection(merged)
        if ending and annotations.call[node] not in calls:
            proto = annotations.graph.nodes[node]
            raise AbsentError(
                f"{hierarchy.scopes[min(ending)]} ends inside {proto.op_type} {proto.name!r}, which does the work of "
                f"{hierarchy.scopes[annotations.call[node] or 0]} too: select that, or export with --keep-modules"
            )
