"""The pass `resolve-auxiliary`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mxtools.evidence.corrections.beginnings import release_unbounded
from mxtools.evidence.corrections.branches import annotate_branches
from mxtools.evidence.data_flow import resolve
from mxtools.pipeline.base import Pass, option
from mxtools.pipeline.working_model import WorkingModel


@dataclass(frozen=True)
class ResolveAuxiliary(Pass):
    """Place all other nodes by data flow: at the lowest common ancestor of their readers, or else of their inputs."""

    name: ClassVar[str] = "resolve-auxiliary"

    between: bool = option("first place nodes between two scopes at their lowest common ancestor", False)

    def apply(self, model: WorkingModel) -> None:
        """Annotate every node that has no annotation yet."""
        annotate_branches(model)
        resolve(model.annotations, self.between)
        release_unbounded(model)
