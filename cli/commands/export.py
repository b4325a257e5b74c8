"""`mx export`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from ..common import check_json, emit, progress, say
from ..options import Cache, DataDir, Json, Output, Static, axes, key, say_axes, say_trace, takes_model, varies
from ..streams import check_output, write_model, write_text


class Exporter(StrEnum):
    """An exporter of torch, or the choice between them."""

    AUTO = "auto"
    TORCHSCRIPT = "torchscript"
    DYNAMO = "dynamo"


@takes_model
def command(
    load: Any,
    output: Output = "-",
    exporter: Annotated[
        Exporter,
        Option(
            metavar="auto|torchscript|dynamo",
            help="dynamo (torch.export), or torchscript; auto is dynamo, or torchscript if that fails.",
        ),
    ] = Exporter.AUTO,
    opset: Annotated[
        int | None, Option(help="Version of the ONNX operator set; by default the exporter's choice.")
    ] = None,
    dynamic: Annotated[
        list[str] | None, Option(metavar="NAME=AXIS[:SYMBOL],…", help="Dynamic axes of an input.")
    ] = None,
    static: Static = False,
    keep_modules: Annotated[
        bool, Option("--keep-modules", help="Do not merge modules, such as a convolution and its BatchNorm.")
    ] = False,
    with_trace: Annotated[
        Path | None, Option(metavar="FILE", help="Also trace the model, and write the sidecar to this file.")
    ] = None,
    log: Annotated[Path | None, Option(metavar="FILE", help="File for everything that the exporters print.")] = None,
    data_dir: DataDir = None,
    cache: Cache = None,
    json: Json = False,
) -> None:
    """The inputs are those that `mx trace` makes with the same options.

    --with-trace also writes the sidecar that `mx trace` would write, and loads the model only once. `mx tag` behind it
    in a pipe can be given the same file with --trace: it reads the model first.

    Example: mx export ./bert -o bert.onnx
    """
    check_json(json, output)
    check_output(output, log, with_trace)
    from mxtools.pytorch.exporting.exporters import ExportError, Options, axes_of, check_opset
    from mxtools.pytorch.sources import sources_of
    from mxtools.traces.trace import write_trace

    check_opset(exporter, opset)
    options = Options(opset, axes(dynamic), keep_modules, varies(load, dynamic, static))
    with sources_of(load, options, cache, key=cache and key(load)) as sources:
        traced = None
        if with_trace:
            with progress("tracing"):
                traced, _ = sources.trace()
        try:
            with progress("exporting"):
                attempts = sources.export(exporter)
        except ExportError as error:
            attempts = error.attempts
            raise
        finally:
            if log and "attempts" in locals():
                write_text("\n".join(f"== {a.exporter}\n{a.log}" for a in attempts), log)
        model = attempts[-1].read()
        if with_trace and traced:  # before the model, so that a reader of the model finds it
            write_trace(traced, with_trace)
        write_model(model, output, data_dir)
        dynamic_axes = axes_of(model.proto)
    if traced:
        say_trace("export", traced, counts=not json)
    if json:
        shown = ("exporter", "error", "fixed", "kept", "static")
        report = [{key: getattr(a, key) for key in shown} for a in attempts]
        emit([*report[:-1], report[-1] | {"dynamic": dynamic_axes}])
        return
    for attempt in attempts[:-1]:
        say(f"mx export: {attempt.exporter} failed ({attempt.error}), used {attempts[-1].exporter}")
    say_axes("export", dynamic_axes, attempts[-1].static)
    for warning in attempts[-1].warnings:
        say(f"mx export: {warning}")
