"""What a pass is, and how its options are declared."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

from mxtools.pipeline.working_model import WorkingModel


@dataclass(frozen=True)
class Report:
    """What a pass found out or did; every pass that has something to say has a subclass of its own."""

    kind: ClassVar[str]
    """Under what name `mx run --json` shows it."""

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data, for JSON."""
        raise NotImplementedError


@dataclass(frozen=True)
class Pass(ABC):
    """One step over a model. Fields are its options, made with `option`; the docstring's first line is its help."""

    name: ClassVar[str]
    then: ClassVar[str] = ""
    """The passes that have to follow it at once, as a pipeline: they give the nodes that it made their scopes."""

    @abstractmethod
    def apply(self, model: WorkingModel) -> Report | None:
        """Change the model in place, and return what there is to say of that.

        A pass that changes the graph, and not only annotations, does so inside `with model.changing():`.
        """


def option(text: str, default: Any = None, shown: str | None = None) -> Any:  # noqa: ANN401 - the type is the field's
    """Return a field of a pass: `text` is its help; with `dataclasses.MISSING` for default it must be given.

    `shown` is what stands for the value in the help of a command, as GLOB.

    Types: str, int, float, bool, their `| None`, tuple[str, ...].
    """
    return field(default=default, metadata={"help": text, "shown": shown})
