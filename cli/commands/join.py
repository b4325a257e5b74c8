"""`mx join`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from mxtools.errors import UsageError

from ..common import check_json, emit, progress, read_model, say
from ..options import Json, Output
from ..streams import check_output, is_pipe, source_name, write_model

if TYPE_CHECKING:
    from mxtools.pipeline.working_model import WorkingModel

Names = list[str] | None


def command(
    models: Annotated[
        Names,
        Argument(
            metavar="[ONNX]...",
            help="ONNX files; or the folder of a split, or its manifest.json.",
            show_default=False,
        ),
    ] = None,
    named: Annotated[
        Names,
        Option("--as", metavar="NAME=ONNX", help="A file whose scopes, inputs and outputs are put under a name."),
    ] = None,
    connected: Annotated[
        Names,
        Option(
            "--map",
            metavar="OUT=IN",
            help="Give an output, or an input, of one model to an input of another; NAME.OUT of a named one.",
        ),
    ] = None,
    keep: Annotated[bool, Option("--keep", help="Keep outputs that are given to inputs as outputs too.")] = False,
    output: Output = "-",
    json: Json = False,
) -> None:
    """Equal weights of several models are stored once, and names that two models have get a number.

    With --as, the scopes, inputs and outputs of a model are put under a name: encoder.block.0, encoder.input_ids.
    Models with other operator versions are converted to the highest; dimensions that are connected get one name.

    Example: mx join parts -o bert.onnx

    Example: mx join --as pre=pre.onnx --as net=net.onnx --map pre.pixels=net.x -o whole.onnx
    """
    from mxtools.split.connections import join_models, join_parts

    check_json(json, output)
    check_output(output)
    connections = {target: source for source, target in _pairs("--map", connected)}
    if len(connections) < len(connected or ()):
        raise UsageError("--map gives one input two values", "give each input one")
    aliases = _pairs("--as", named)
    files = [*((name, "") for name in models or ()), *((file, alias) for alias, file in aliases)]
    if len(files) == 1 and not aliases and not is_pipe(files[0][0]) and _is_split(Path(files[0][0])):
        if connections or keep:
            raise UsageError("a manifest says what is connected with what", "leave out --map and --keep")
        with progress("joining"):
            joined, report = join_parts(Path(files[0][0]))
    else:
        found = _read(files)
        if len(files) < 2:
            raise UsageError("nothing to join", "give two models or more, or the folder of a split")
        joined, report = join_models(found, connections, keep)
    write_model(joined, output)
    if json:
        emit(report.to_dict())
        return
    say(
        f"mx join: {report.models} models; {report.nodes} nodes; {report.shared} weights stored once for several; "
        f"{', '.join(report.inputs)} → {', '.join(report.outputs)}"
    )


def _is_split(path: Path) -> bool:
    return path.is_dir() or path.suffix == ".json"


def _pairs(option: str, texts: Names) -> list[tuple[str, str]]:
    """Return what an option gives as pairs; UsageError if a text is not a pair."""
    found = [
        tuple(text.rpartition("=")[::2]) if option == "--map" else tuple(text.partition("=")[::2])
        for text in texts or ()
    ]
    for text, (first, second) in zip(texts or (), found, strict=True):
        if not first or not second:
            raise UsageError(f"{option} {text!r} is not a pair", "write two names with = between them")
    return [(first, second) for first, second in found]


def _read(files: list[tuple[str, str]]) -> list[tuple[str, WorkingModel]]:
    """Read the models, each with its alias; UsageError if two have the same alias, or several come from stdin."""
    aliases = [alias for _, alias in files if alias]
    if len(set(aliases)) < len(aliases):
        raise UsageError("two models have the same name", "give each --as another")
    if sum(is_pipe(file) for file, _ in files) > 1:
        raise UsageError("several models cannot come from stdin", "give files")
    found = []
    for file, alias in files:
        with progress(f"reading {source_name(file)}"):
            found.append((alias, read_model(file)))
    return found
