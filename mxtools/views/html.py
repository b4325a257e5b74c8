"""HTML: one page that needs nothing else, to look at a model in any browser.

What comes from the model is in the page once, as JSON in which no HTML can be; the page's policy lets no script run but
its own, by its digest, and nothing be fetched.
"""

from __future__ import annotations

import base64
import hashlib
import html as markup
import json
from importlib.resources import files
from string import Template
from typing import Any

from mxtools.files.version import VERSION
from mxtools.views.metric_files import as_json
from mxtools.views.structure import Structure

SCRIPTS = ("layout.js", "page.js", "panels.js")


def html(structure: Structure, metric: str = "") -> str:
    """Give the page; it opens with the colours of `metric`, where there is one."""
    style, script = _file("page.css"), "\n".join(map(_file, SCRIPTS))
    return Template(_file("page.html")).substitute(
        version=VERSION,
        title=markup.escape(structure.title),
        style=style,
        style_digest=_digest(style),
        script=script,
        script_digest=_digest(script),
        data=_json({**_data(structure), "metric": metric}),
    )


def _file(name: str) -> str:
    return files("mxtools.views").joinpath("page", name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _json(data: object) -> str:
    """Give JSON that can stand in a script element: no character of it has a meaning in HTML."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.translate({ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"})


def _data(structure: Structure) -> dict[str, Any]:
    """Give the structure in rows, in the order of the fields that the page's script names."""
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
        "values": [(v.name, v.type, int(v.weight)) for v in structure.values],
        "levels": [[(*ends, values) for ends, values in level.items()] for level in structure.levels()],
        "metrics": [
            (name, [(item, as_json(n)) for item, n in {**metric.scopes, **metric.nodes}.items()])
            for name, metric in structure.metrics.items()
        ],
    }
