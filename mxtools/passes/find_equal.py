"""The pass `find-equal`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mxtools.evidence.corrections.equal_calls import find_equal_calls
from mxtools.evidence.corrections.equal_operations import find_equal_operations
from mxtools.pipeline.base import Pass
from mxtools.pipeline.working_model import WorkingModel


@dataclass(frozen=True)
class FindEqual(Pass):
    """Find the calls without nodes whose work the nodes of an equal call do, and the nodes that work for several."""

    name: ClassVar[str] = "find-equal"

    def apply(self, model: WorkingModel) -> None:
        """Note which call has the nodes, and for which others; without a trace nothing is done."""
        find_equal_calls(model)
        find_equal_operations(model)
