"""The pass `resolve-auxiliary`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mxtools.evidence.data_flow import resolve
from mxtools.pipeline.base import Pass, option
from mxtools.pipeline.working_model import WorkingModel


@dataclass(frozen=True)
class ResolveAuxiliary(Pass):
    """Scopes of all other nodes by data flow: the lowest common ancestor of what reads, else of what feeds them."""

    name: ClassVar[str] = "resolve-auxiliary"

    between: bool = option("first give what lies between two scopes their lowest common ancestor", False)

    def apply(self, model: WorkingModel) -> None:
        """Annotate every node that has no annotation yet."""
        resolve(model.annotations, self.between)
