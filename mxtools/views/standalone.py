"""Pages in one file, which any browser shows without another file and without a network.

A page holds its data once, as JSON in which nothing can be read as HTML. Its content security policy allows only its
own script and style, by their digests, and lets it fetch nothing. All pages have the head of `frame.html` and the
colours of `theme.css`.
"""

from __future__ import annotations

import base64
import hashlib
import html as markup
import json
from collections.abc import Sequence
from importlib.resources import files
from string import Template

from mxtools.files import VERSION

OURS = "mxtools.views"
"""The package with the files of all pages."""


def page(package: str, body: str, style: str, scripts: Sequence[str], title: str, data: object) -> str:
    """Return a page made from files in the folder `page` of a package; later scripts use what is in earlier ones."""
    styles = f"{_file(OURS, 'theme.css')}{_file(package, style)}"
    script = "\n".join(_file(package, name) for name in scripts)
    name = markup.escape(title)
    return Template(_file(OURS, "frame.html")).substitute(
        version=VERSION,
        title=name,
        body=Template(_file(package, body)).substitute(title=name),
        style=styles,
        style_digest=_digest(styles),
        script=script,
        script_digest=_digest(script),
        data=_json(data),
    )


def _file(package: str, name: str) -> str:
    return files(package).joinpath("page", name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _json(data: object) -> str:
    """Return JSON that can stand in a script element: none of its characters has a meaning in HTML."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.translate({ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"})
