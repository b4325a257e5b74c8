"""DOT: a cluster for each module, for Graphviz. See graphviz.org/doc/info/lang.html."""

from __future__ import annotations

from collections.abc import Iterator

from mxtools.errors import printable
from mxtools.views.nesting import Nesting
from mxtools.views.structure import Structure

HEAD = """digraph {
  graph [compound=true, fontname="sans-serif", style="rounded"]
  node [shape=box, style="rounded,filled", fillcolor="#f4f4f2", fontname="sans-serif", fontsize=11]
  edge [color="#777777", arrowsize=0.6]
"""


def dot(structure: Structure, depth: int | None) -> str:
    """Return the text of a directed graph that shows so many levels of modules; all of them if `depth` is None."""
    nested = Nesting(structure, depth)
    lines = [*_lines(structure, nested, 0, "  ")]
    lines += [f"  {_quoted(str(source))} -> {_quoted(str(target))}" for source, target in nested.edges]
    return HEAD + "\n".join(lines) + "\n}\n"


def _lines(structure: Structure, nested: Nesting, scope: int, lead: str) -> Iterator[str]:
    if scope:
        yield f"{lead}subgraph {_quoted(f'cluster{scope}')} {{"
        yield f"{lead}  label={_quoted(': '.join(nested.label(scope)))}"
    for item in nested.children[scope]:
        if item in nested.opened:
            yield from _lines(structure, nested, item, lead + "  ")
        else:
            fill = ' fillcolor="#dce6f5"' if item < len(structure.scopes) else ""
            yield f"{lead}  {_quoted(str(item))} [label={_quoted(*nested.label(item))}{fill}]"
    if scope:
        yield f"{lead}}}"
    else:
        yield from (f"{lead}  {_quoted(str(end))} [shape=ellipse label={_quoted(t)}]" for end, t in nested.ends.items())


def _quoted(*lines: str) -> str:
    r"""Return lines as one quoted string; Graphviz reads `\n` as a new line."""
    return '"' + r"\n".join(printable(line).replace("\\", "\\\\").replace('"', '\\"') for line in lines) + '"'
