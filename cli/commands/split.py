"""`mx split`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Option

from ..common import progress, read_model, say
from ..completion import classes, scopes
from ..options import DataDir, Inputs, Json, Source, Trace
from ..streams import write_text

Names = list[str] | None


def command(
    folder: Annotated[
        Path, Option("--dir", "-d", metavar="DIR", help="Folder to write to; made if it does not exist.")
    ],
    source: Source = "-",
    each: Annotated[
        Names, Option(autocompletion=scopes, metavar="GLOB", help="Scope, as a glob: each outermost match is a part.")
    ] = None,
    depth: Annotated[
        int | None,
        Option(
            min=1,
            metavar="N",
            help="Each module N levels below the root is a part.",
            show_default=False,
        ),
    ] = None,
    class_: Annotated[
        Names,
        Option(
            "--class", autocompletion=classes, metavar="NAME", help="Each outermost module of this class is a part."
        ),
    ] = None,
    exclude: Annotated[
        Names, Option(autocompletion=scopes, metavar="GLOB", help="Scope to leave in the rest, as a glob.")
    ] = None,
    verify: Annotated[
        bool, Option("--verify", help="Run the parts and the whole model; end with exit status 1 if they differ.")
    ] = False,
    shape: Annotated[Names, Option(metavar="NAME=SIZE,…", help="Shape of a tensor, if it cannot be inferred.")] = None,
    type_: Annotated[
        Names, Option("--type", metavar="NAME=TYPE", help="Element type of a tensor, if it cannot be inferred.")
    ] = None,
    trace: Trace = None,
    inputs: Inputs = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """The parts, run in the order of DIR/manifest.json, compute what the whole model computes.

    The nodes outside the selected modules become parts too. Weights that several parts share are written once.

    Files that an earlier split wrote to DIR are replaced. Other files are left alone.

    Example: mx split bert.tagged.onnx --each 'encoder.layer.*' -d parts
    """
    from mxtools.cut.declarations import declare, shapes_of, types_of
    from mxtools.scopes.selection import Selection
    from mxtools.split import manifest
    from mxtools.split.parts import split

    manifest.check(folder)
    model = read_model(source, data_dir, trace, inputs)
    selections = [
        *(Selection(scopes=(glob,)) for glob in each or ()),
        *(Selection(classes=(name,)) for name in class_ or ()),
    ]
    declare(model, shapes_of(shape or ()), types_of(type_ or ()))
    with progress("splitting"):
        parts = split(model, selections, depth, tuple(exclude or ()))
    with progress(f"writing {len(parts)} parts"):
        written = manifest.write(model, parts, folder, verify)
    if json:
        write_text(manifest.dumps(written), "-")
    else:
        say(f"mx split: {len(parts)} part{'s' if len(parts) > 1 else ''} in {folder}")
