"""The pass `filter`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mxtools.cut.declarations import shapes_of, types_of
from mxtools.cut.filtering import Auxiliary, CutRequest, FilterReport, Io, filter_model
from mxtools.functions.folded import is_folded, unfold_all
from mxtools.pipeline.base import Pass, option
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes.selection import Selection


@dataclass(frozen=True)
class Filter(Pass):
    """Cut the selected modules out, as a model that runs."""

    name: ClassVar[str] = "filter"

    scope: tuple[str, ...] = option(
        "scope of a module, as a glob; selects everything in it; '.' selects the whole model", (), "GLOB"
    )
    tag: tuple[str, ...] = option("tag, as a glob: '/BertModel/**/BertAttention'", (), "GLOB")
    class_: tuple[str, ...] = option("class of a module: 'BertAttention'", (), "NAME")
    op: tuple[str, ...] = option("only nodes of this operator: MatMul", (), "TYPE")
    exclude: tuple[str, ...] = option("scope to leave out, as a glob", (), "GLOB")
    from_tensor: tuple[str, ...] = option("begin at this tensor, which becomes an input", (), "NAME")
    to_tensor: tuple[str, ...] = option("end at this tensor, which becomes an output", (), "NAME")
    auxiliary: Auxiliary = option(
        "what comes along: constants and shape chains that the selection needs (context), all auxiliary operators "
        "that lead to it (all), or nothing (none)",
        Auxiliary.CONTEXT,
        "context|all|none",
    )
    io: Io = option(
        "inputs and outputs of the part: tensors of the graph, or those of the module's forward, under its names",
        Io.TENSORS,
        "tensors|module",
    )
    shape: tuple[str, ...] = option("shape of a tensor, if it cannot be inferred", (), "NAME=SIZE,…")
    type_: tuple[str, ...] = option("element type of a tensor, if it cannot be inferred", (), "NAME=TYPE")
    verify: bool = option("run the part and the whole model; fail if they differ", False)

    def apply(self, model: WorkingModel) -> FilterReport:
        """Reduce the model to the selected nodes and what they need; a folded model is unfolded first.

        Raises UsageError if nothing is selected, AbsentError if the module is gone, as a whole or in part, CheckError
        if the part computes something else than the whole model.
        """
        if is_folded(model):
            unfold_all(model)
        selection = Selection(self.scope, self.tag, self.class_, self.exclude)
        ends = self.op, self.from_tensor, self.to_tensor
        declared = shapes_of(self.shape), types_of(self.type_)
        return filter_model(model, CutRequest(selection, *ends, self.auxiliary, self.io, self.verify, *declared))
