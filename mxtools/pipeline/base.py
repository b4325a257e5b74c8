"""What a pass is, and how its options are declared."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

from mxtools.pipeline.working_model import WorkingModel


@dataclass(frozen=True)
class Report:
    """What a pass found out or did; each pass that reports something has a subclass of its own."""

    kind: ClassVar[str]
    """The key of the report in JSON."""

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data, for JSON."""
        raise NotImplementedError


@dataclass(frozen=True)
class Pass(ABC):
    """One step that changes or annotates a model.

    Its options are its fields, which `option` makes; the first line of the class's docstring is its help text.
    """

    name: ClassVar[str]
    then: ClassVar[str] = ""
    """A pipeline that runs right after the pass, such as one that finds the scopes of nodes that the pass made."""

    @abstractmethod
    def apply(self, model: WorkingModel) -> Report | None:
        """Change the model in place; return a report, or None if there is nothing to report.

        A pass that changes the graph, and not only annotations, does so inside `with model.changing():`.
        """


def option(text: str, default: Any = None, shown: str | None = None) -> Any:  # noqa: ANN401 - the type is the field's
    """Return a field of a pass: an option of type str, int, float or bool, each also `| None`, or tuple[str, ...].

    `text` is its help; `shown` is the placeholder of its value in a command's help, such as GLOB. With the default
    `dataclasses.MISSING` the option is required.
    """
    return field(default=default, metadata={"help": text, "shown": shown})
