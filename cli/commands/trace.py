"""`mx trace`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from typer import Option

from ..common import check_json, emit, progress
from ..options import Cache, Json, Output, key, say_trace, takes_model
from ..streams import check_output, is_pipe, write_text


@takes_model
def command(
    load: Any,
    output: Output = "-",
    record: Annotated[
        bool, Option("--record", help="Also write the values of all calls, to a .safetensors file beside the sidecar.")
    ] = False,
    cache: Cache = None,
    json: Json = False,
) -> None:
    """The sidecar is a JSON file beside the model.

    It lists the modules with their weights, and every call in order, with the caller and the shapes of its inputs and
    outputs.

    Example: mx trace ./bert -o bert.trace.json
    """
    from mxtools.errors import UsageError
    from mxtools.files.outputs import claim_beside
    from mxtools.traces import sidecar
    from mxtools.traces.trace import values_beside, write_trace

    check_json(json, output)
    if record and is_pipe(output):
        raise UsageError("--record writes a second file beside the sidecar", "give -o FILE")
    check_output(output)
    if record:
        claim_beside(values_beside(Path(output)))
    from mxtools.pytorch.sources import sources_of

    with sources_of(load, cache=cache, key=cache and key(load)) as sources, progress("tracing"):
        traced, values = sources.trace(record)
        if is_pipe(output):
            write_text(sidecar.dumps(traced), output)
        elif values is not None and traced.record:
            write_trace(traced, Path(output), partial(_copy, sources.folder / traced.record))
        else:
            write_trace(traced, Path(output))
    say_trace("trace", traced, counts=not json)
    if json:
        figures = {"modules": len(traced.modules), "calls": len(traced.calls), "opaque": sidecar.opaque_modules(traced)}
        emit({"model": traced.model.class_name, **figures})


def _copy(source: Path, file: BinaryIO) -> None:
    import shutil

    with source.open("rb") as values:
        shutil.copyfileobj(values, file)
