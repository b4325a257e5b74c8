"""The formats of `mx view` that are one text."""

from __future__ import annotations

import json

from mxtools.errors import UsageError
from mxtools.views.structure import Structure

TEXT_FORMATS = ("html", "model-explorer", "netron", "graphml", "mermaid", "dot")


def view_text(structure: Structure, format_: str, depth: int | None = None, metric: str = "parameters") -> str:
    """Return a structure in a format; UsageError where there is none of that name.

    `depth` is how many levels mermaid and dot open, else 2; `metric` is what the page colours by when it opens.
    """
    from mxtools.views import model_explorer
    from mxtools.views.dot import dot
    from mxtools.views.graphml import graphml
    from mxtools.views.html import html
    from mxtools.views.mermaid import mermaid
    from mxtools.views.netron import netron

    levels = 2 if depth is None else depth
    writers = {
        "html": lambda: html(structure, metric),
        "model-explorer": lambda: (
            json.dumps(model_explorer.graph(structure, structure.title), ensure_ascii=False) + "\n"
        ),
        "netron": lambda: netron(structure),
        "graphml": lambda: graphml(structure),
        "mermaid": lambda: mermaid(structure, levels),
        "dot": lambda: dot(structure, levels),
    }
    if format_ not in writers:
        raise UsageError(f"there is no format {format_!r}", f"there are {', '.join(writers)}")
    return writers[format_]()


def _json(data: object) -> str:
    return json.dumps(data, ensure_ascii=False) + "\n"
