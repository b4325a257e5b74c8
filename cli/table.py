"""Tables for people: the module tree, drawn, with columns."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import Protocol, Self, TypeVar

from mxtools.errors import printable
from mxtools.scopes.tags import class_of


class TreeItem(Protocol):
    """A call of a module in a tree of calls."""

    @property
    def scope(self) -> str:
        """Its scope."""

    @property
    def tag(self) -> str:
        """Its tag."""

    @property
    def children(self) -> Sequence[Self]:
        """The calls directly below it."""


_MARKS = re.compile(r"[\\`*_\[\]|~]")
"""What means something to Markdown inside of a line; `<` and `&` are escaped as in HTML."""

Branch = TypeVar("Branch", bound=TreeItem)


def drawn(
    branch: Branch, depth: int | None = None, lead: str = "", tail: str = "", parent: str = ""
) -> Iterator[tuple[str, str, Branch]]:
    """Yield a branch and those below it, down to `depth` levels, each after its drawn name and its class.

    `lead` is drawn before the name of the branch, `tail` before those of its children; `parent` is the scope above.
    """
    local = branch.scope.removeprefix(parent + ".") if parent not in ("", ".") else branch.scope
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
    """Print rows on stdout in columns: the first `left` and the last aligned to the left, the others to the right."""
    lines = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    last = len(widths) - 1
    for line in lines:
        cells = (
            cell.ljust(width) if column < left or column == last else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        sys.stdout.write("  ".join(cells).rstrip() + "\n")


def show_markdown(rows: Iterable[Sequence[str]], left: int = 2) -> None:
    """Print rows, the first of which is the head, on stdout as a table in Markdown, aligned as by `show`."""
    head, *lines = ([_escaped(cell) for cell in row] for row in rows)
    alignment = ["---" if column < left or column == len(head) - 1 else "---:" for column in range(len(head))]
    for line in (head, alignment, *lines):
        sys.stdout.write(f"| {' | '.join(line)} |\n")


def _escaped(cell: str) -> str:
    """Return a cell for Markdown, in which nothing is markup; leading spaces, which a tree is drawn with, are kept."""
    text = printable(cell)
    bare = text.lstrip(" ")
    return "&nbsp;" * (len(text) - len(bare)) + _MARKS.sub(r"\\\g<0>", escape(bare, quote=False))
