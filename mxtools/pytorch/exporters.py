"""Options of torch's exporters, and results of their attempts; this file does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mxtools.errors import InputError
from mxtools.pipeline.working_model import WorkingModel

Axes = Mapping[str, Mapping[int, str]]


@dataclass(frozen=True)
class Options:
    """How to export.

    Without `opset` the exporter chooses the operator set. `dynamic` are the symbols of dynamic axes by input,
    `{"x": {0: "batch"}}`. With `keep_modules` the exporter folds nothing across modules.
    """

    opset: int | None = None
    dynamic: Axes = field(default_factory=dict)
    keep_modules: bool = False


@dataclass(frozen=True)
class ExportAttempt:
    """An attempt of an exporter: its name, its file, the cause of failure in one line or None, and all its messages."""

    exporter: str
    path: Path
    error: str | None = None
    log: str = ""

    def read(self) -> WorkingModel:
        """Return the exported model."""
        return WorkingModel.read(self.path, f"{self.exporter} export")


def in_turn(choice: str) -> tuple[str, ...]:
    """Return the exporters to try: the one that is named, or both for auto.

    Auto begins with dynamo, which writes each node's module into the file and so leaves the least to infer.
    """
    return ("dynamo", "torchscript") if choice == "auto" else (choice,)


class ExportError(InputError):
    """No exporter could export the model; `attempts` has the error and the messages of each."""

    def __init__(self, model: str, attempts: list[ExportAttempt]) -> None:
        """Take the model's class and the failed attempts."""
        self.attempts = attempts
        causes = "; ".join(f"{attempt.exporter}: {attempt.error}" for attempt in attempts)
        tried = {attempt.exporter for attempt in attempts}
        left = [name for name in in_turn("auto") if name not in tried]
        remedy = f"try ⟨exporter-{left[0]}⟩" if left else "try other inputs (⟨input⟩) or ⟨opset⟩"
        super().__init__(f"{model} cannot be exported ({causes})", f"{remedy}, or see all of it with ⟨log-file⟩")
