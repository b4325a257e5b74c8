"""`mx view`."""

from __future__ import annotations

import json as jsons
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from mxtools.views.text import FORMATS, view_text

from ..common import check_json, emit, progress, read_model, say
from ..completion import one_of
from ..options import DataDir, Json, Output, Source
from ..streams import check_output, is_pipe, read_bytes, write_model, write_text

if TYPE_CHECKING:
    from mxtools.pipeline.working_model import WorkingModel
    from mxtools.views.structure import Structure


DRAWINGS = ("mermaid", "dot")
"""Formats that are short texts, which a terminal may show."""


def command(
    source: Source = "-",
    output: Output = "-",
    format_: Annotated[
        str, Option("--format", "-f", autocompletion=one_of(FORMATS), metavar="|".join(FORMATS), help="Format.")
    ] = "html",
    metric: Annotated[
        list[Path] | None,
        Option(metavar="FILE", help='Colours: JSON with numbers by scope, {"time": {"encoder.layer.0": 0.12}}.'),
    ] = None,
    depth: Annotated[
        int | None,
        Option(
            min=1, metavar="N", help="For mermaid and dot: number of levels to open. [default: 2]", show_default=False
        ),
    ] = None,
    against: Annotated[
        str | None,
        Option(
            metavar="ONNX", help="For model-explorer: another tagged graph of the model, to navigate both together."
        ),
    ] = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """The page needs no network. It has the tree, the graph of the open module, details, search, colours and keys.

    model-explorer writes a graph as JSON, or with -o FILE.onnx a copy with namespaces. Beside it go the node data of
    each metric and, with --against, the mapping for synchronised navigation. netron writes an attachment to drop onto
    the model, graphml writes nested graphs, and mermaid and dot write drawings without constants.

    Example: mx view bert.tagged.onnx --metric bert.profile.json -o bert.html
    """
    from mxtools.errors import UsageError
    from mxtools.views.build import structure
    from mxtools.views.metric_files import add_metrics

    check_json(json, output)
    _check(format_, depth, against, source, output)
    model = read_model(source, data_dir)
    with progress("reading"):
        shown = structure(model, model.proto.graph.name or "stdin" if is_pipe(source) else Path(source).name)
    for file in metric or ():
        unknown = add_metrics(shown, read_bytes(file), str(file))
        if unknown:
            say(f"mx view: {unknown} modules of {file} have no node in this graph")
    if format_ == "model-explorer":
        if is_pipe(output) and (metric or against):
            raise UsageError("node data and navigation are files beside the graph", "give -o FILE")
        files = _model_explorer(model, shown, output, against, data_dir)
    else:
        write_text(view_text(shown, format_, depth, [*shown.metrics][-1] if metric else "parameters"), output)
        files = [output]
    if json:
        emit({"files": files, "scopes": len(shown.scopes), "nodes": len(shown.nodes), "metrics": [*shown.metrics]})
    elif not is_pipe(output):
        say(f"mx view: {len(shown.nodes)} nodes in {len(shown.scopes)} calls: {', '.join(files)}")


def _check(format_: str, depth: int | None, against: str | None, source: str, output: str) -> None:
    """Refuse options that are nonsense together, and an output that cannot be written, before any work."""
    from mxtools.errors import UsageError

    if format_ not in FORMATS:
        raise UsageError(f"--format {format_} is none of {', '.join(FORMATS)}")
    if depth is not None and format_ not in DRAWINGS:
        raise UsageError(f"--depth is for mermaid and dot, and {format_} holds all levels", "leave it out")
    if against is not None and format_ != "model-explorer":
        raise UsageError("--against is for synchronised navigation", "give --format model-explorer")
    is_model = format_ == "model-explorer" and output.endswith(".onnx")
    check_output(output, readable=format_ in DRAWINGS, replacing=source if is_model else None)


def _model_explorer(
    model: WorkingModel, shown: Structure, output: str, against: str | None, data_dir: Path | None
) -> list[str]:
    """Write the graph and what lies beside it; give the names of the files."""
    from mxtools.views import model_explorer
    from mxtools.views.build import structure

    name = model_explorer.graph_name(model.proto)
    beside: dict[str, object] = {}
    if not is_pipe(output):
        for key, metric in shown.metrics.items():
            if key != "nodes":
                beside[f"{_plain(key)}.json"] = model_explorer.overlay(shown, name, metric)
    if against is not None:
        other = read_model(against, data_dir)
        left = structure(other, Path(against).name)
        beside["sync.json"] = model_explorer.sync_navigation(left, shown)
    if output.endswith(".onnx"):
        model_explorer.write_namespaces(model.proto, model.graph, shown)
        write_model(model, output, data_dir)
    else:
        write_text(jsons.dumps(model_explorer.graph(shown, name), ensure_ascii=False) + "\n", output)
    files = [output]
    for ending, content in beside.items():
        files.append(f"{output.removesuffix('.onnx').removesuffix('.json')}.{ending}")
        write_text(jsons.dumps(content, ensure_ascii=False) + "\n", files[-1])
    return files


def _plain(name: str) -> str:
    """Return the name of a metric as a part of a file name."""
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in name)
