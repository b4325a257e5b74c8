"""The pass `fold`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from mxtools.functions.folding import FoldReport, FoldRequest, fold
from mxtools.pipeline.base import Pass, option
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes.selection import Selection


@dataclass(frozen=True)
class Fold(Pass):
    """Fold modules into functions of the model: one for all calls that are equal."""

    name: ClassVar[str] = "fold"

    each: tuple[str, ...] = option("scope, as a glob: each outermost match becomes a call of a function", (), "GLOB")
    class_: tuple[str, ...] = option("class: each outermost module of it becomes a call of a function", (), "NAME")
    depth: int | None = option("fold each module N levels below the root", None, "N")
    repeated: bool = option("fold the outermost modules that have equal ones elsewhere", False)
    nested: bool = option("fold the modules inside of the selected ones too", False)
    exclude: tuple[str, ...] = option("scope that must not become a function, as a glob", (), "GLOB")
    verify: bool = option("run the model before and after; fail if outputs differ", False)

    def apply(self, model: WorkingModel) -> FoldReport:
        """Fold the selected modules.

        Raises UsageError if nothing is selected, AbsentError if none of what is selected can be a function, CheckError
        if the outputs differ.
        """
        chosen = (*(Selection((glob,)) for glob in self.each), *(Selection(classes=(name,)) for name in self.class_))
        before = model.copy() if self.verify else None
        report = fold(model, FoldRequest(chosen, self.depth, self.repeated, self.nested, self.exclude))
        if before is None:
            return report
        from mxtools.functions.check import same_outputs

        return replace(report, check=same_outputs(before, model))
