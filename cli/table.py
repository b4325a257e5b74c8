"""Tables for people: the module tree, drawn, with columns."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from html import escape

from mxtools.errors import printable
from mxtools.scopes.tags import class_of
from mxtools.views.tree import Item, number

_MARKS = re.compile(r"[\\`*_\[\]|~]")
"""Characters with a meaning in Markdown inside of a line; `<` and `&` are escaped as in HTML."""


GUIDES = "│├└─ "
"""The characters with which a tree is drawn."""
GAP = 2
"""Spaces between columns."""
LEAST = 12
"""The last column is shown only if so many letters of it fit."""


def drawn(
    branch: Item, depth: int | None = None, lead: str = "", tail: str = "", parent: str = ""
) -> Iterator[tuple[str, str, Item]]:
    """Yield a branch and those below it, down to `depth` levels, each after its drawn name and its class.

    `lead` is drawn before the name of the branch, `tail` before those of its children; `parent` is the scope above. The
    name and class of a branch that stands for `equal` siblings say so: `layer.0 … 11` and `12 × BertLayer`.
    """  # noqa: RUF002 - as people write it
    local = branch.scope.removeprefix(parent + ".") if parent not in ("", ".") else branch.scope
    equal: tuple[str, ...] = getattr(branch, "equal", ())
    times = f"{len(equal) + 1} × " if equal else ""  # noqa: RUF001 - as people write it
    yield lead + local + _others(branch.scope, equal), times + class_of(branch.tag), branch
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


def _others(scope: str, equal: Sequence[str]) -> str:
    """Return the names of the siblings for which a line also stands: the last one of a row, else all."""
    if not equal:
        return ""
    numbers = [number(other)[1] for other in (scope, *equal)]
    names = [other.rpartition(".")[2] for other in equal]
    return f" … {names[-1]}" if numbers == [*range(numbers[0], numbers[-1] + 1)] else f", {', '.join(names)}"


def show(rows: Iterable[Sequence[str]], left: int = 2) -> None:
    """Print rows on stdout in columns: the first `left` and the last aligned to the left, the others to the right.

    A terminal shows the first row (the head) and the lines of a tree in another style, and columns are left out from
    the right until the rest fits. In files and pipes, all columns are there.
    """
    lines = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    if sys.stdout.isatty():
        _show_on_terminal(lines, widths, left)
        return
    for line in lines:
        sys.stdout.write((" " * GAP).join(_aligned(line, widths, left)).rstrip() + "\n")


def _show_on_terminal(lines: Sequence[list[str]], widths: list[int], left: int) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    count = _fitting(widths, left, console.width)
    for row, line in enumerate(lines):
        first, *others = _aligned(line, widths, left)[:count]
        name = first.lstrip(GUIDES)
        text = Text.assemble((first.removesuffix(name), "dim"), (name, "bold" if not row else ""))
        for column, cell in enumerate(others, 1):
            text.append(" " * GAP + cell, "bold" if not row else "cyan" if column < left else "")
        text.rstrip()
        console.print(text, no_wrap=True, overflow="ellipsis")


def _fitting(widths: Sequence[int], left: int, room: int) -> int:
    """Return how many columns fit, at least `left`; the last one is text, and only a few of its letters need fit."""
    count = len(widths)
    needed = min(widths[-1], LEAST)
    while count > left and sum(widths[: count - 1]) + GAP * (count - 1) + needed > room:
        count -= 1
        needed = widths[count - 1]
    return count


def _aligned(line: Sequence[str], widths: Sequence[int], left: int) -> list[str]:
    last = len(widths) - 1
    return [
        cell.ljust(width) if column < left or column == last else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(line, widths, strict=True))
    ]


def show_markdown(rows: Iterable[Sequence[str]], left: int = 2) -> None:
    """Print rows, the first of which is the head, on stdout as a table in Markdown, aligned as by `show`."""
    head, *lines = ([_escaped(cell) for cell in row] for row in rows)
    alignment = ["---" if column < left or column == len(head) - 1 else "---:" for column in range(len(head))]
    for line in (head, alignment, *lines):
        sys.stdout.write(f"| {' | '.join(line)} |\n")


def _escaped(cell: str) -> str:
    """Return a cell for Markdown without any markup; leading spaces, with which a tree is drawn, are kept."""
    text = printable(cell)
    bare = text.lstrip(" ")
    return "&nbsp;" * (len(text) - len(bare)) + _MARKS.sub(r"\\\g<0>", escape(bare, quote=False))
