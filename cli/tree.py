"""`mx tree`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from typer import Option

from .common import emit
from .options import DataDir, Json, Source
from .table import drawn, show

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
    show(_cells(name, class_name, branch) for name, class_name, branch in drawn(root, depth))


def _cells(name: str, class_name: str, branch: Branch) -> tuple[str, ...]:
    operators = " ".join(f"{op}:{count}" for op, count in branch.operators.most_common(4))
    return name, class_name, f"{branch.nodes} nodes", _short(branch.parameters), operators


def _short(count: int) -> str:
    """Give a count of elements in at most six characters: 999, 1.2 k, 110 M."""
    for size, unit in ((10**9, " G"), (10**6, " M"), (10**3, " k")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)
