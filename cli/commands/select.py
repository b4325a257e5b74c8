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
            help="Names of nodes, or of the tensors that they make, one per line; or JSON for a tool.",
        ),
    ] = Format.NAMES,
    device: Annotated[
        str, Option(metavar="NAME", help="Device for layer-annotation and ort-names: cpu, gpu, npu, cuda ….")
    ] = "cpu",
    data_dir: DataDir = None,
) -> None:
    """Use it to keep a module out of quantisation or conversion, for example.

    ort-quant, float16, nncf, modelopt and quark are arguments for ONNX Runtime's quantisers, float16 converters, NNCF's
    IgnoredScope, NVIDIA's ModelOpt and AMD's Quark; aimet has the tensors not to quantise; olive is a pass of a
    workflow; tensorrt has trtexec's arguments, one per line. layer-annotation has the metadata and the session option
    by which ONNX Runtime assigns nodes to a device, ort-names an option by which it does so by the names of nodes.

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
