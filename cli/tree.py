"""`mx tree`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

from typer import Option

from .common import emit
from .options import DataDir, Json, Source

if TYPE_CHECKING:
    from mxtools.tree import Branch


def command(
    source: Source = "-",
    depth: Annotated[int | None, Option(min=0, help="Show so many levels below the root.", show_default=False)] = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Each line is a call of a module, with all below it: nodes, elements of the weights that they use, operators.

    Example: mx tree bert.tagged.onnx --depth 2
    """
    from mxtools.context import Context
    from mxtools.errors import InputError
    from mxtools.model import modelio
    from mxtools.tree import tree

    loaded = modelio.read_model(source, data_dir)
    annotations = Context(loaded.weights).annotations(loaded.proto)
    if not any(annotations.evidence):
        raise InputError(f"no node of {loaded.name} has a scope: run `mx tag` first")
    root = tree(annotations)
    if json:
        emit(root.to_dict())
        return
    rows = list(_rows(root, depth))
    width = max(len(name) for name, _, _ in rows)
    class_width = max(len(name) for _, name, _ in rows)
    for name, class_name, branch in rows:
        operators = " ".join(f"{op}:{count}" for op, count in branch.operators.most_common(4))
        counts = f"{branch.nodes:>6} nodes  {_short(branch.parameters):>7}  {operators}"
        line = f"{name:<{width}}  {class_name:<{class_width}}  {counts}"
        sys.stdout.write(line.rstrip() + "\n")


def _rows(
    branch: Branch, depth: int | None, lead: str = "", tail: str = "", above: str = ""
) -> Iterator[tuple[str, str, Branch]]:
    """Give a branch and those below it with their drawn names and classes."""
    local = branch.scope.removeprefix(above + ".") if above not in ("", ".") else branch.scope
    yield lead + local, branch.tag.rpartition("/")[2].partition("@")[0].partition(".")[0], branch
    if depth == 0:
        return
    for child in branch.children:
        last = child is branch.children[-1]
        yield from _rows(
            child,
            None if depth is None else depth - 1,
            tail + ("└─ " if last else "├─ "),
            tail + ("   " if last else "│  "),
            branch.scope,
        )


def _short(count: int) -> str:
    """Give a count of elements in at most six characters: 999, 1.2 k, 110 M."""
    for size, unit in ((10**9, " G"), (10**6, " M"), (10**3, " k")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)
