"""`mx select`."""

from __future__ import annotations

from typing import Annotated, Any

from typer import Option

from mxtools.tools.node_lists import FORMATS, Format, select

from ..common import emit, read_model
from ..options import DataDir, Source, takes_selection
from ..streams import put


@takes_selection
def command(
    selected: Any,
    source: Source = "-",
    format: Annotated[  # noqa: A002 - the option's name
        Format,
        Option(
            "--format",
            "-f",
            metavar="|".join(Format),
            help="Names of nodes, or of the tensors that they make, one a line; or JSON for a tool.",
        ),
    ] = Format.NAMES,
    device: Annotated[str, Option(metavar="NAME", help="Device for layer-annotation: cpu, gpu, npu, cuda ….")] = "cpu",
    data_dir: DataDir = None,
) -> None:
    """Use it to keep a module out of quantisation or conversion, for example.

    ort-quant, float16 and nncf are arguments for ONNX Runtime's quantisers, float16 converters and NNCF's
    IgnoredScope. olive is a pass of a workflow. layer-annotation has the metadata and the session option by which
    ONNX Runtime assigns nodes to a device.

    Example: mx select bert.tagged.onnx --scope 'encoder.layer.0' --format ort-quant
    """
    from mxtools.errors import UsageError

    if not selected:
        raise UsageError("nothing is selected", "give --scope, --tag, --class, --op or --exclude")
    selection, operators = selected
    model = read_model(source, data_dir)
    found = FORMATS[format](select(model, selection, operators, device))
    if isinstance(found, list):
        for name in found:
            put(name)
    else:
        emit(found)
