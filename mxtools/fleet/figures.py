"""The figures of a job: taken from the reports of its commands, and what a change of each means."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mxtools.files.outputs import named_in


@dataclass(frozen=True)
class Figure:
    """A figure: its title, whether more of it is better, and how much it may change until that counts."""

    title: str
    more_is_better: bool
    relative: float = 0.0
    """The share of the earlier value by which it may be worse."""
    absolute: float = 0.0
    """By how much it may be worse besides."""

    def is_worse(self, before: float, after: float) -> bool:
        """Return whether a figure is worse than before, by more than it may be."""
        lost = before - after if self.more_is_better else after - before
        return lost > abs(before) * self.relative + self.absolute if math.isfinite(lost) else lost > 0


ROUNDING = 1e-6
"""Relative errors below this are rounding of float32, which differs between machines."""

FIGURES = {
    "fidelity": Figure("share of module calls that, cut out, return what PyTorch's return", more_is_better=True),
    "error": Figure("largest relative error of an output", more_is_better=False, relative=0.1, absolute=ROUNDING),
    "invalid": Figure("errors that validation finds", more_is_better=False),
    "rootless": Figure("nodes without any evidence", more_is_better=False),
    "nodes": Figure("nodes", more_is_better=False, relative=0.02),
    "bytes": Figure("bytes of the model and its data", more_is_better=False, relative=0.01),
}
"""Those that are compared, in the order of the table; others in a report are only shown."""


def figures_of(command: str, report: object) -> dict[str, float]:
    """Return the figures in the report that a command wrote with --json; nothing for other commands."""
    read = _READERS.get(command)
    try:
        return dict(read(report)) if read else {}
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):  # another shape, as a list of reports
        return {}


def bytes_of(model: Path) -> int:
    """Return the bytes of a model's file and of the files with its weights; 0 without it."""
    if not model.is_file():
        return 0
    files = [model, *(model.parent / name for name in named_in(model, None))]
    return sum(file.stat().st_size for file in files if file.is_file())


def _tagged(report: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    yield "nodes", float(report["nodes"])
    yield "rootless", float(report["evidence"].get("root", 0))


def _verified(report: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    if "round_trip" in report:
        yield "fidelity", float(report["rate"])
        for word, count in report["round_trip"].items():
            yield word, float(count)
        return
    root = report["modules"][0]
    errors = [float(output["relative"]) for output in root["outputs"]]
    if errors:
        yield "error", max(errors)


def _validated(report: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    yield "invalid", float(report["counts"].get("error", 0))


_READERS: dict[str, Callable[[Any], Iterator[tuple[str, float]]]] = {
    "tag": _tagged,
    "wrap": _tagged,
    "verify": _verified,
    "validate": _validated,
}
