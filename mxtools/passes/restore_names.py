"""The pass `restore-names`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from mxtools.graph.rename import rename_values
from mxtools.matching.earlier_model import match_earlier
from mxtools.matching.restored_names import restored_names
from mxtools.pipeline.base import Pass, Report
from mxtools.pipeline.working_model import WorkingModel


@dataclass(frozen=True)
class NamesReport(Report):
    """The tensors that were renamed, old name to new name."""

    kind: ClassVar[str] = "names"

    renamed: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class RestoreNames(Pass):
    """Restore the names of tensors, as in the earlier model, if a tool gave these names to other tensors."""

    name: ClassVar[str] = "restore-names"

    def apply(self, model: WorkingModel) -> NamesReport | None:
        """Rename tensors of the main graph; do nothing without an earlier model, or if all names are right."""
        match = model.once(match_earlier)
        names = restored_names(match) if match else {}
        if not names:
            return None
        with model.changing() as proto:
            rename_values(proto.graph, names)
        return NamesReport(names)
