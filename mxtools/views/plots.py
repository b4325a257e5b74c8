"""Draw bar charts and points as PNG or SVG; needs the extra `onnx-mxtools[plot]`."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mxtools.errors import UsageError
from mxtools.files.atomic import atomic_output
from mxtools.files.outputs import claim

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg")
MOST = 80
"""The most bars in one picture."""
_INCHES = 0.22
"""Height of a bar, in inches."""


def check_plot(path: Path) -> None:
    """Raise UsageError if a picture cannot be made, OutputError if it cannot be written, before any work."""
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"{path} is no {' or '.join(FORMATS)} file", "pictures are one of these")
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError("pictures need matplotlib", "pip install 'onnx-mxtools[plot]'")
    claim(path)


def bars(
    path: Path,
    title: str,
    labels: Sequence[str],
    series: Mapping[str, Sequence[float]],
    unit: str,
    log: bool = False,
    limit: float | None = None,
) -> None:
    """Write a picture of horizontal bars, the first label on top: for each label, one bar of each series.

    `limit` is drawn as a line. If there are more than MOST labels, the picture shows those with the longest bars, in
    their order. A number that is not finite has no bar. The same input gives the same bytes.
    """
    from matplotlib.figure import Figure

    shown = _longest(series, len(labels))
    thickness = 0.8 / len(series)
    figure = Figure(figsize=(9, 1.2 + _INCHES * len(shown) * max(1, len(series) / 1.5)), layout="constrained")
    axes = figure.subplots()
    for number, (name, lengths) in enumerate(series.items()):
        found = [lengths[label] if math.isfinite(lengths[label]) else 0.0 for label in shown]
        axes.barh([row + (number + 0.5) * thickness - 0.4 for row in range(len(shown))], found, thickness, label=name)
    axes.set_yticks(range(len(shown)), [labels[label] for label in shown], fontsize=7)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlabel(unit)
    axes.set_title(title if len(shown) == len(labels) else f"{title}: the {len(shown)} largest of {len(labels)}")
    if log and any(length > 0 for lengths in series.values() for length in lengths):
        axes.set_xscale("log")
    if limit is not None:
        axes.axvline(limit, color="black", linestyle=":", linewidth=1)
    if len(series) > 1:
        axes.legend(fontsize=7)
    _save(figure, path)


Point = tuple[float, float]


def points(
    path: Path,
    title: str,
    found: Sequence[Point],
    front: Sequence[Point],
    chosen: Point,
    labels: tuple[str, str],
    limit: float,
) -> None:
    """Write a picture of points, with a line through the best of them, one of them marked, and a limit of the height.

    Points whose numbers are not finite are left out. The same input gives the same bytes.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    shown = [point for point in found if all(map(math.isfinite, point))]
    line = [point for point in front if all(map(math.isfinite, point))]
    axes.plot([x for x, _ in line], [y for _, y in line], color="tab:blue", linewidth=1, label="best")
    axes.scatter([x for x, _ in shown], [y for _, y in shown], s=24, color="tab:gray", label="evaluated", zorder=3)
    if all(map(math.isfinite, chosen)):
        axes.scatter([chosen[0]], [chosen[1]], s=90, color="tab:orange", marker="*", label="chosen", zorder=4)
    axes.axhline(limit, color="black", linestyle=":", linewidth=1, label="target")
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=7)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    """Write a picture; the same picture gives the same bytes."""
    import matplotlib as mpl

    with mpl.rc_context({"svg.hashsalt": "mxtools"}), atomic_output(path) as file:
        figure.savefig(file, format=path.suffix[1:].lower(), dpi=120, metadata=_undated(path))


def _longest(series: Mapping[str, Sequence[float]], count: int) -> list[int]:
    """Return the places of the labels that are shown; there are `count` labels."""
    lengths = [max((s[i] for s in series.values() if math.isfinite(s[i])), default=0.0) for i in range(count)]
    return sorted(sorted(range(count), key=lambda i: -lengths[i])[:MOST])


def _undated(path: Path) -> dict[str, Any]:
    """Return metadata for matplotlib without date and version, which differ from run to run."""
    return {"Date": None} if path.suffix.lower() == ".svg" else {"Software": None}
