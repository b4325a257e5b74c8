"""The formats of views that are a single text, in one table."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

from mxtools.errors import UsageError, suggestion

if TYPE_CHECKING:
    from mxtools.views.html import Earlier
    from mxtools.views.structure import Structure


def view_text(
    structure: Structure,
    format_: str,
    depth: int | None = None,
    metric: str = "parameters",
    earlier: Earlier | None = None,
) -> str:
    """Return a structure in one of FORMATS; UsageError if there is no such format.

    `depth` is the number of levels that mermaid and dot open, 2 without it. `metric` colours the page when it opens,
    and `earlier` is the model that it is shown beside; other formats do not use them.
    """
    if format_ not in FORMATS:
        raise UsageError(f"there is no format {format_!r}", suggestion(format_, FORMATS))
    return FORMATS[format_](structure, 2 if depth is None else depth, metric, earlier)


def _written(name: str, structure: Structure, *options: object) -> str:
    """Return the result of a format's function, which is in the file of its name."""
    return str(getattr(import_module(f"mxtools.views.{name}"), name)(structure, *options))


def _model_explorer(structure: Structure) -> str:
    from mxtools.views.model_explorer import graph

    return json.dumps(graph(structure, structure.title), ensure_ascii=False) + "\n"


FORMATS: dict[str, Callable[[Structure, int, str, Earlier | None], str]] = {
    "html": lambda structure, _, metric, earlier: _written("html", structure, metric, earlier),
    "model-explorer": lambda structure, *_: _model_explorer(structure),
    "netron": lambda structure, *_: _written("netron", structure),
    "graphml": lambda structure, *_: _written("graphml", structure),
    "mermaid": lambda structure, depth, *_: _written("mermaid", structure, depth),
    "dot": lambda structure, depth, *_: _written("dot", structure, depth),
}
"""What writes each format, given the structure, the levels to open, the metric to colour by, and an earlier model."""
