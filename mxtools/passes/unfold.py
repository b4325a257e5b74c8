"""The pass `unfold`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from mxtools.functions.unfolding import UnfoldReport, UnfoldRequest, unfold
from mxtools.pipeline.base import Pass, option
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes.selection import Selection


@dataclass(frozen=True)
class Unfold(Pass):
    """Replace calls of functions by the functions' nodes."""

    name: ClassVar[str] = "unfold"

    each: tuple[str, ...] = option("scope, as a glob: only calls of functions in it", (), "GLOB")
    class_: tuple[str, ...] = option("class: only calls of functions in modules of it", (), "NAME")
    function: tuple[str, ...] = option("only calls of this function", (), "NAME")
    exclude: tuple[str, ...] = option("scope in which calls of functions stay, as a glob", (), "GLOB")
    verify: bool = option("run the model before and after; fail if outputs differ", False)

    def apply(self, model: WorkingModel) -> UnfoldReport:
        """Unfold the selected calls; without a selection, all.

        Raises UsageError if a selector matches nothing, CheckError if the outputs differ.
        """
        before = model.copy() if self.verify else None
        selection = Selection(self.each, classes=self.class_, exclude=self.exclude)
        report = unfold(model, UnfoldRequest(selection, self.function))
        if before is None:
            return report
        from mxtools.functions.check import same_outputs

        return replace(report, check=same_outputs(before, model))
