"""`mx select`."""

from __future__ import annotations

import sys
from typing import Annotated

from typer import Option

from mxtools.selectors import FORMATS, Format, select

from .common import emit, opened
from .options import DataDir, Source

Names = list[str] | None


def command(
    source: Source = "-",
    scope: Annotated[Names, Option(metavar="GLOB", help="Scopes: a glob selects itself and all below it.")] = None,
    tag: Annotated[Names, Option(metavar="GLOB", help="Tags: '/BertModel/**/BertAttention'.")] = None,
    class_: Annotated[Names, Option("--class", metavar="NAME", help="Class names: 'BertAttention'.")] = None,
    op: Annotated[Names, Option(metavar="TYPE", help="Of what is selected, only these operators.")] = None,
    exclude: Annotated[Names, Option(metavar="GLOB", help="Scopes to leave out.")] = None,
    format: Annotated[  # noqa: A002 - the option's name
        Format,
        Option(
            metavar="|".join(Format),
            help="Names of nodes or of the tensors that they make, one a line, or JSON for a tool.",
        ),
    ] = Format.NAMES,
    device: Annotated[
        str, Option(metavar="NAME", help="What layer-annotation assigns the selected nodes to: cpu, gpu, npu, cuda ….")
    ] = "cpu",
    data_dir: DataDir = None,
) -> None:
    """Tools that know no modules are told the nodes of those that they are to leave alone.

    ort-quant, float16 and nncf are arguments of ONNX Runtime's quantisers, of float16 converters and of NNCF's
    IgnoredScope; olive is a pass of a workflow; layer-annotation has the metadata of nodes and the option of a session
    by which ONNX Runtime assigns them to a device.

    Example: mx select bert.tagged.onnx --scope 'encoder.layer.0' --format ort-quant
    """
    from mxtools.select import Selection

    model, context = opened(source, data_dir)
    selection = Selection(tuple(scope or ()), tuple(tag or ()), tuple(class_ or ()), tuple(exclude or ()))
    found = FORMATS[format](select(model, context, selection, tuple(op or ()), device))
    if isinstance(found, list):
        sys.stdout.writelines(f"{name}\n" for name in found)
    else:
        emit(found)
