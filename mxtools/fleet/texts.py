"""Figures and changes in words, for the table, the page and Markdown."""

from __future__ import annotations

from collections.abc import Callable

from mxtools.fleet.changes import Change
from mxtools.fleet.job import JobReport


def figure_text(name: str, value: float | None) -> str:
    """Return a figure as people read it; nothing if it is not known."""
    return "" if value is None else _FORMS.get(name, "{:g}".format)(value)


def result_text(job: JobReport) -> str:
    """Return what became of a job: `done`, or `input: tag: m.onnx cannot be read`."""
    failure = job.failure
    return ": ".join(filter(None, (failure.kind, failure.step, failure.problem))) if failure else "done"


def change_text(change: Change) -> str:
    """Return a change in a few words: `export seconds 1.2 → 5.0`."""
    what = " ".join(filter(None, (change.step, change.what)))
    return f"{what} {_shown(change.what, change.before)} → {_shown(change.what, change.after)}"


def _shown(name: str, value: float | str | None) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) else figure_text(name, value)


def _bytes(value: float) -> str:
    for size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f} B"


_FORMS: dict[str, Callable[[float], str]] = {
    "fidelity": "{:.4f}".format,
    "error": "{:.1e}".format,
    "bytes": _bytes,
    "memory": _bytes,
    "seconds": "{:.1f}".format,
}
