"""`mx text`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Option

from ..options import DataDir, Source
from ..streams import is_pipe, model_source, read_bytes, source_name, write_text


def command(
    source: Source = "-",
    keep_going: Annotated[
        bool,
        Option(
            "--keep-going", help="If a file cannot be read, write the reason and a digest, and end with exit status 0."
        ),
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """Writes the operators of each module, their inputs, and digests of weights, without names that exporters make up.

    To let Git show changes of models: `git config diff.onnx.textconv 'mx text --keep-going'`, and `*.onnx diff=onnx` in
    .gitattributes. Without --keep-going, Git stops at a file that cannot be read.

    A model without tags is tagged first, as by `mx tag` without a trace.

    Example: mx text bert.tagged.onnx
    """
    from mxtools.errors import MxError, UsageError, printable
    from mxtools.tools.module_text import unreadable

    if keep_going and is_pipe(source):
        raise UsageError("--keep-going is for files", "give one")
    try:
        text = _text(source, data_dir)
    except MxError as error:
        if not keep_going:
            raise
        text = unreadable(read_bytes(source), printable(str(error)).replace(source, "it"))
    write_text(text, "-")


def _text(source: str, data_dir: Path | None) -> str:
    """Return the text of a model; one that is not tagged is tagged in memory."""
    from mxtools.files.reading import read_model
    from mxtools.pipeline.working_model import WorkingModel
    from mxtools.strategies import table
    from mxtools.tools.module_text import heading, sections

    name = source_name(source)
    proto, weights = read_model(model_source(source), name, data_dir, placing=False)  # Git gives no data beside it
    first, model = heading(proto), WorkingModel(proto, weights, name)
    if not model.is_tagged:
        table.get("auto").passes().run(model)
    return first + sections(model)
