"""The pass `filter`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar

from onnx import ModelProto

from mxtools.cut.choose import auxiliary_behind, between, calls_of, given_nodes, nodes_of, pieces
from mxtools.cut.cut import Cut, extract
from mxtools.errors import InputError, UsageError
from mxtools.graph.rename import rename_values
from mxtools.pipeline.context import Context, Pass, option
from mxtools.scopes.annotations import Annotations, read_absent
from mxtools.scopes.selection import Selection

if TYPE_CHECKING:
    from mxtools.cut.signature import Signature


class Auxiliary(StrEnum):
    """How much of what leads to a selection comes along."""

    CONTEXT = "context"
    ALL = "all"
    NONE = "none"


class Io(StrEnum):
    """What the inputs and outputs of a part are."""

    TENSORS = "tensors"
    MODULE = "module"


@dataclass(frozen=True)
class Filter(Pass):
    """Cut the selected modules out, as a model that runs."""

    name: ClassVar[str] = "filter"

    scope: tuple[str, ...] = option("scopes: a glob selects itself and all below it; '.' is everything", (), "GLOB")
    tag: tuple[str, ...] = option("tags: a glob, '/BertModel/**/BertAttention'", (), "GLOB")
    class_: tuple[str, ...] = option("class names: 'BertAttention'", (), "NAME")
    op: tuple[str, ...] = option("of what is selected, only these operators", (), "TYPE")
    exclude: tuple[str, ...] = option("scopes to leave out: a glob", (), "GLOB")
    from_tensor: tuple[str, ...] = option("only what depends on these tensors, which become inputs", (), "NAME")
    to_tensor: tuple[str, ...] = option("only what these tensors depend on, which become the outputs", (), "NAME")
    auxiliary: Auxiliary = option(
        "constants and shape chains that the selection needs (context), all auxiliary operators that lead to it (all), "
        "or nothing besides it (none)",
        Auxiliary.CONTEXT,
    )
    io: Io = option(
        "inputs and outputs: the tensors of the graph, or those of the module under the names of its forward",
        Io.TENSORS,
    )
    verify: bool = option("run the part and the whole model, and fail where they differ", False)

    def apply(self, model: ModelProto, context: Context) -> None:
        """Reduce the model to the selected nodes and what they need.

        Reports, under "filter": nodes, inputs, outputs, pieces (of the selection that no tensor connects), and with
        `verify` the differences by output. Raises UsageError where nothing is selected, AbsentError where the module is
        there no more or in part, CheckError where the part computes something else than the whole.
        """
        graph, annotations = context.graph(model), context.annotations(model)
        calls = self._calls(annotations, read_absent(model))
        chosen, outputs = self._chosen(annotations, calls)
        if self.auxiliary is Auxiliary.ALL:
            chosen |= auxiliary_behind(annotations, chosen)
        signature = self._signature(model, context, calls or set()) if self.io is Io.MODULE else None
        names = signature.outputs() if signature else {}
        given = given_nodes(annotations, chosen)
        cut = Cut(graph, chosen, given, names or outputs, copying=self.auxiliary is not Auxiliary.NONE)
        names |= signature.inputs(cut.inputs) if signature else {}
        separate = pieces(graph, chosen)
        whole = ModelProto.FromString(model.SerializeToString()) if self.verify else None
        extract(model, cut, context.weights)
        differences = {"verify": _differences(whole, model, context)} if whole else {}
        rename_values(model.graph, {graph.names[value]: name for value, name in names.items()})
        context.report["filter"] = {
            "nodes": len(model.graph.node),
            "inputs": [value.name for value in model.graph.input],
            "outputs": [value.name for value in model.graph.output],
            "pieces": separate,
            **differences,
        }

    def _signature(self, model: ModelProto, context: Context, calls: set[int]) -> Signature:
        """Give the signature of the one call that is selected; UsageError where there is no trace or are several."""
        from mxtools.cut.signature import Signature
        from mxtools.matching.traced_values import matched_values

        annotations = context.annotations(model)
        sidecar = annotations.hierarchy.sidecar
        if not sidecar:
            raise UsageError("--io module needs to know what the module was given: give --trace")
        outermost = [call for call in calls if annotations.hierarchy.parent[call] not in calls]
        if len(outermost) != 1 or self.op or self.from_tensor or self.to_tensor:
            raise UsageError("--io module takes one whole module: select one with --scope")
        matches = matched_values(model, context, sidecar, context.values) if context.values else None
        return Signature(annotations, context.shapes(model), sidecar, outermost[0], matches)

    def _calls(self, annotations: Annotations, absent: dict[str, str]) -> set[int] | None:
        """Give the selected calls, None where tensors alone tell what is selected."""
        ranged = self.from_tensor or self.to_tensor
        selected = self.scope or self.tag or self.class_ or self.op
        if not (ranged or selected):
            raise UsageError("nothing is selected: give --scope, --tag, --class, --op, --from-tensor or --to-tensor")
        if not (selected or self.exclude):
            return None
        if not any(annotations.evidence):
            raise InputError("no node has a scope: run `mx tag` first")
        return calls_of(annotations, Selection(self.scope, self.tag, self.class_, self.exclude), absent)

    def _chosen(self, annotations: Annotations, calls: set[int] | None) -> tuple[set[int], set[int]]:
        """Give the selected nodes, and the values that are to be the outputs where these are said."""
        ranged = self.from_tensor or self.to_tensor
        found = between(annotations.graph, self.from_tensor, self.to_tensor) if ranged else (set[int](), set[int]())
        chosen, outputs = found
        if calls is not None:
            nodes = nodes_of(annotations, calls, self.op)
            chosen = chosen & nodes if ranged else nodes
        if not chosen:
            raise UsageError("no selected node lies between --from-tensor and --to-tensor: select more")
        return chosen, outputs if self.to_tensor else set()


def _differences(whole: ModelProto, part: ModelProto, context: Context) -> list[dict[str, Any]]:
    """Compare a part with the whole; what that needs is imported only here."""
    from mxtools.cut.check import check_part

    return check_part(whole, part, context)
