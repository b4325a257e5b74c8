"""What is asked of torch's exporters, and what they answer; without torch itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mxtools.errors import InputError
from mxtools.pipeline.working_model import WorkingModel


@dataclass(frozen=True)
class Options:
    """How to export: the operator set, else the exporter's choice; dynamic axes; whether modules are kept apart.

    `dynamic` names axes: `x=0:batch,2`. With `keep_modules` nothing is folded across modules.
    """

    opset: int | None = None
    dynamic: tuple[str, ...] = ()
    keep_modules: bool = False


@dataclass(frozen=True)
class ExportAttempt:
    """One exporter's try: its name, what it made, the cause of its failure in one line or None, and all it said."""

    exporter: str
    path: Path
    error: str | None = None
    log: str = ""

    def read(self) -> WorkingModel:
        """Read what it made."""
        return WorkingModel.read(self.path, f"{self.exporter} export")


def in_turn(choice: str) -> tuple[str, ...]:
    """Give the exporters to try: the one that is named, or both for auto.

    Auto begins with dynamo, which says of each node which module it comes from and so leaves least to be inferred.
    """
    return ("dynamo", "torchscript") if choice == "auto" else (choice,)


class ExportError(InputError):
    """No exporter could do it."""

    def __init__(self, model: str, attempts: list[ExportAttempt]) -> None:
        """Say the cause of each failure and what to try next."""
        self.attempts = attempts
        causes = "; ".join(f"{attempt.exporter}: {attempt.error}" for attempt in attempts)
        tried = {attempt.exporter for attempt in attempts}
        left = [name for name in in_turn("auto") if name not in tried]
        remedy = f"try --exporter {left[0]}" if left else "try other inputs (--input) or --opset"
        super().__init__(f"{model} cannot be exported ({causes}): {remedy}, or see all of it with --log FILE")
