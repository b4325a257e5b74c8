"""`mx demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from mxtools.pytorch.demo import Kind, write_demo

from ..common import progress, say
from ..options import require_torch


def command(
    kind: Annotated[Kind, Argument(metavar="[" + "|".join(Kind) + "]", help="Kind of model.")] = Kind.BERT,
    output: Annotated[
        Path | None, Option("-o", "--output", metavar="DIR", help="Folder to make; by default the kind's name.")
    ] = None,
) -> None:
    """The weights are random, so it predicts nothing. Its modules are those of the full-size model.

    Example: mx demo bert && mx trace ./bert -o bert.trace.json
    """
    require_torch()
    folder = output or Path(kind)
    with progress(f"writing {folder}"):
        count = write_demo(kind, folder)
    following = f"mx trace ./{folder} --record -o {folder.name}.trace.json"
    say(f"mx demo: {folder}: a {kind} of {count} parameters; next: {following}")
