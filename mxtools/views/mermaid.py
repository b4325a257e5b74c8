"""Mermaid: a flowchart with a subgraph for each module, for Markdown pages. See mermaid.js.org/syntax/flowchart."""

from __future__ import annotations

from collections.abc import Iterator

from mxtools.views.nesting import Nesting
from mxtools.views.structure import OUTSIDE, Structure


def mermaid(structure: Structure, depth: int | None) -> str:
    """Return the text of a flowchart that shows so many levels of modules; all of them if `depth` is None."""
    nested = Nesting(structure, depth)
    lines = ["flowchart TD", *_lines(structure, nested, 0, "  ")]
    lines += [f"  {_name(source)} --> {_name(target)}" for source, target in nested.edges]
    return "\n".join(lines) + "\n"


def _lines(structure: Structure, nested: Nesting, scope: int, lead: str) -> Iterator[str]:
    if scope:
        yield f'{lead}subgraph {_name(scope)}["{_escape(": ".join(nested.label(scope)))}"]'
    for item in nested.children[scope]:
        if item in nested.opened:
            yield from _lines(structure, nested, item, lead + "  ")
        else:
            left, right = ("[[", "]]") if item < len(structure.scopes) else ("[", "]")
            yield f'{lead}  {_name(item)}{left}"{"<br>".join(map(_escape, nested.label(item)))}"{right}'
    if scope:
        yield f"{lead}end"
    else:
        yield from (f'{lead}  {_name(end)}(["{_escape(text)}"])' for end, text in nested.ends.items())


def _name(item: int) -> str:
    return f"i{item}" if item > OUTSIDE else f"o{-item}"


def _escape(text: str) -> str:
    """Return text for use in quotes: characters that Mermaid or HTML could interpret become their numbers."""
    return "".join(c if c.isalnum() or c in " ._-:,@/" else f"#{ord(c)};" for c in text)
