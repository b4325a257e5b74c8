"""HTML: one page that shows a model in any browser, and needs no other file and no network (`standalone.py`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mxtools.views.metric_files import as_json
from mxtools.views.standalone import page
from mxtools.views.structure import Structure

SCRIPTS = ("layout.js", "model.js", "graph.js", "tree.js", "details.js", "page.js")
"""In this order, because each uses those before it when the page starts."""
GENERATOR, HEAD = b'<meta name="generator" content="mxtools ', 1024
"""The text by which a page is recognised as ours, and how many bytes of a page are searched for it."""


@dataclass(frozen=True)
class Earlier:
    """The model beside which another one is shown, and how the other one differs from it."""

    structure: Structure
    changes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By scope, how a module itself differs, in words."""
    interface: Sequence[str] = ()
    """How inputs, outputs and operator sets differ, in words."""


def html(structure: Structure, metric: str = "", earlier: Earlier | None = None) -> str:
    """Return the page; it opens in the colours of `metric`, if one is given, and beside an `earlier` model."""
    shown = {
        "models": [_data(each) for each in (structure, *([earlier.structure] if earlier else []))],
        "changes": [*earlier.changes.items()] if earlier else [],
        "interface": earlier.interface if earlier else [],
        "metric": metric,
    }
    return page("mxtools.views", "page.html", "page.css", SCRIPTS, structure.title, shown)


def is_page(file: Path) -> bool:
    """Return whether a file is a page that was written here, judging by its head."""
    try:
        if not file.is_file():  # opening a pipe would wait
            return False
        with file.open("rb") as opened:
            return GENERATOR in opened.read(HEAD)
    except OSError:
        return False


def _data(structure: Structure) -> dict[str, Any]:
    """Return the structure as rows, with the fields in the order that the page's script expects."""
    return {
        "title": structure.title,
        "scopes": [
            (s.scope, s.tag, structure.local(i), s.class_name, s.parent, s.nodes)
            for i, s in enumerate(structure.scopes)
        ],
        "nodes": [
            (n.name, n.operator, n.parent, n.evidence, n.inputs, n.outputs, int(n.constant), n.attributes, n.merged)
            for n in structure.nodes
        ],
        "values": [
            (v.name, v.type, int(v.weight), *([v.statistics.row()] if v.statistics else [])) for v in structure.values
        ],
        "levels": [[(*ends, values) for ends, values in level.items()] for level in structure.levels()],
        "metrics": [
            (
                name,
                metric.unit,
                metric.total,
                [(item, as_json(n)) for item, n in {**metric.scopes, **metric.nodes}.items()],
            )
            for name, metric in structure.metrics.items()
        ],
    }
