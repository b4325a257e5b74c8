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
    """Find calls whose work the nodes of an equal call do, because the exporter computed it only once."""

    name: ClassVar[str] = "find-equal"

    def apply(self, model: WorkingModel) -> None:
        """Note which call has the nodes, and for which other calls they work; do nothing without a trace."""
        find_equal_calls(model)
        find_equal_operations(model)
