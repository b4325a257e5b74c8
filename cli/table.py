"""Tables for people: the module tree, drawn, with columns."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, Self, TypeVar

from mxtools.errors import printable
from mxtools.scopes.tags import class_of


class Placed(Protocol):
    """A call of a module in the tree of calls."""

    @property
    def scope(self) -> str:
        """Where it is."""

    @property
    def tag(self) -> str:
        """The same in class names."""

    @property
    def children(self) -> Sequence[Self]:
        """The calls below it."""


Branch = TypeVar("Branch", bound=Placed)


def drawn(
    branch: Branch, depth: int | None = None, lead: str = "", tail: str = "", above: str = ""
) -> Iterator[tuple[str, str, Branch]]:
    """Give a branch and those below it, down to some depth, with their drawn names and their classes."""
    local = branch.scope.removeprefix(above + ".") if above not in ("", ".") else branch.scope
    yield lead + local, class_of(branch.tag), branch
    if depth == 0:
        return
    for child in branch.children:
        last = child is branch.children[-1]
        yield from drawn(
            child,
            None if depth is None else depth - 1,
            tail + ("└─ " if last else "├─ "),
            tail + ("   " if last else "│  "),
            branch.scope,
        )


def show(rows: Iterable[Sequence[str]], left: int = 2) -> None:
    """Print rows on stdout in aligned columns: the first `left` and the last to the left, the others to the right."""
    lines = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    last = len(widths) - 1
    for line in lines:
        cells = (
            cell.ljust(width) if at < left or at == last else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        sys.stdout.write("  ".join(cells).rstrip() + "\n")


def show_markdown(rows: Iterable[Sequence[str]], left: int = 2) -> None:
    """Print rows, the first of them a head, on stdout as a table in Markdown, aligned as `show` does."""
    head, *lines = ([_escaped(cell) for cell in row] for row in rows)
    marks = ["---" if at < left or at == len(head) - 1 else "---:" for at in range(len(head))]
    for line in (head, marks, *lines):
        sys.stdout.write(f"| {' | '.join(line)} |\n")


def _escaped(cell: str) -> str:
    """Give a cell as it stands in Markdown; spaces that it begins with, as a tree's, are kept."""
    text = printable(cell)
    bare = text.lstrip(" ")
    return "&nbsp;" * (len(text) - len(bare)) + bare.replace("\\", "\\\\").replace("|", "\\|").replace("_", "\\_")
