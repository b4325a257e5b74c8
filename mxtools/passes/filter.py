"""The pass `filter`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mxtools.cut.declarations import shapes_of, types_of
from mxtools.cut.filtering import Auxiliary, CutRequest, FilterReport, Io, filter_model
from mxtools.pipeline.base import Pass, option
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes.selection import Selection


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
    shape: tuple[str, ...] = option("shape of a tensor of which it cannot be inferred", (), "NAME=SIZE,…")
    type_: tuple[str, ...] = option("element type of a tensor of which it cannot be inferred", (), "NAME=TYPE")
    verify: bool = option("run the part and the whole model, and fail where they differ", False)

    def apply(self, model: WorkingModel) -> FilterReport:
        """Reduce the model to the selected nodes and what they need.

        Raises UsageError where nothing is selected, AbsentError where the module is gone, as a whole or in part,
        CheckError where the part computes something else than the whole.
        """
        selection = Selection(self.scope, self.tag, self.class_, self.exclude)
        ends = self.op, self.from_tensor, self.to_tensor
        declared = shapes_of(self.shape), types_of(self.type_)
        return filter_model(model, CutRequest(selection, *ends, self.auxiliary, self.io, self.verify, *declared))
