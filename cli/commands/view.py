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
    from mxtools.views.html import Earlier
    from mxtools.views.structure import Structure


DRAWINGS = ("mermaid", "dot")
"""Formats that are short texts, which a terminal may show."""
OTHERS = {
    **dict.fromkeys((".onnx", ".json"), "model-explorer"),
    **dict.fromkeys((".dot", ".gv"), "dot"),
    **dict.fromkeys((".mmd", ".mermaid"), "mermaid"),
    ".graphml": "graphml",
    **dict.fromkeys((".png", ".svg", ".pdf"), ""),
}
"""Endings of files that are no pages, and the format that each is of, if there is one."""
BESIDE = ("html", "model-explorer")
"""Formats that can show another model beside the first."""


def command(
    source: Source = "-",
    output: Output = "-",
    format_: Annotated[
        str, Option("--format", "-f", autocompletion=one_of(FORMATS), metavar="|".join(FORMATS), help="Format.")
    ] = "html",
    metric: Annotated[
        list[Path] | None,
        Option(
            metavar="FILE",
            help="Colour by the JSON of `mx profile`, `mx verify` or `mx tune`, or of your own: "
            '{"time": {"encoder.layer.0": 0.12}}.',
        ),
    ] = None,
    against: Annotated[
        str | None,
        Option(metavar="ONNX", help="Show another tagged graph of the model beside it; mark the modules that differ."),
    ] = None,
    statistics: Annotated[
        bool, Option("--statistics", help="For html: read the weights, and show what their elements are.")
    ] = False,
    open_: Annotated[
        bool,
        Option("--open", help="Show the page in the browser; without -o it goes to NAME.html in the current folder."),
    ] = False,
    depth: Annotated[
        int | None,
        Option(
            min=1, metavar="N", help="For mermaid and dot: number of levels to open. [default: 2]", show_default=False
        ),
    ] = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """The page needs no network. It has the tree, the graph of the open module, details, search, colours and keys.

    model-explorer writes a graph as JSON, or with -o FILE.onnx a copy with namespaces. Beside it go the node data of
    each metric and, with --against, the mapping for synchronised navigation. netron writes an attachment to drop onto
    the model, graphml writes nested graphs, and mermaid and dot write drawings without constants.

    Example: mx view bert.tagged.onnx --metric bert.profile.json --open
    """
    from mxtools.errors import UsageError

    _check(format_, depth, against, statistics, open_)
    if open_ and is_pipe(output):
        output = _page_of(source)
    check_json(json, output)
    is_model = format_ == "model-explorer" and output.endswith(".onnx")
    check_output(output, readable=format_ in DRAWINGS, replacing=source if is_model else None)
    if against is not None and is_pipe(source) and is_pipe(against):
        raise UsageError("both graphs cannot come from stdin", "give the file of one")
    model = read_model(source, data_dir)
    _check_ending(format_, output)  # whether it would overwrite what is read comes first
    shown, first = _structure(model, source, metric or [], statistics)
    first = first or ("parameters" if against is None else "")
    differing = ""
    if format_ == "model-explorer":
        if is_pipe(output) and (metric or against):
            raise UsageError("node data and navigation are files beside the graph", "give -o FILE")
        files = _model_explorer(model, shown, output, against, data_dir)
    else:
        earlier = None if against is None else _earlier(model, shown.title, against, statistics, data_dir)
        differing = "" if earlier is None else f"; {len(earlier.changes)} calls differ from {earlier.structure.title}"
        write_text(view_text(shown, format_, depth, first, earlier), output)
        files = [output]
    if open_:
        _show(Path(output))
    if json:
        emit({"files": files, "scopes": len(shown.scopes), "nodes": len(shown.nodes), "metrics": [*shown.metrics]})
    elif not is_pipe(output):
        say(f"mx view: {len(shown.nodes)} nodes in {len(shown.scopes)} calls{differing}: {', '.join(files)}")


def _check(format_: str, depth: int | None, against: str | None, statistics: bool, open_: bool) -> None:
    """Refuse options that make no sense together, before any work."""
    from mxtools.errors import UsageError, suggestion

    if format_ not in FORMATS:
        raise UsageError(f"there is no format {format_!r}", suggestion(format_, FORMATS))
    if depth is not None and format_ not in DRAWINGS:
        raise UsageError(f"--depth is for mermaid and dot, and {format_} holds all levels", "leave it out")
    if against is not None and format_ not in BESIDE:
        raise UsageError(f"--against is for html and model-explorer, and {format_} shows one graph", "leave it out")
    for given, option in ((statistics, "--statistics"), (open_, "--open")):
        if given and format_ != "html":
            raise UsageError(f"{option} is for the page, and {format_} is none", "leave out --format")


def _check_ending(format_: str, output: str) -> None:
    """Refuse to write a page to a file whose name says that it is something else."""
    from mxtools.errors import UsageError

    ending = Path(output).suffix.lower()
    if format_ == "html" and ending in OTHERS:
        wanted = f", or --format {OTHERS[ending]}" if OTHERS[ending] else ""
        raise UsageError(f"{output} is no name for a page", f"give FILE.html{wanted}")


def _structure(
    model: WorkingModel, source: str, metrics: list[Path], statistics: bool = False
) -> tuple[Structure, str]:
    """Return what is shown of a model, and the first metric of the last file of metrics."""
    from mxtools.views.build import structure
    from mxtools.views.metric_files import add_metrics

    with progress("reading"):
        shown = structure(model, _title(model, source), statistics)
    first = ""
    for file in metrics:
        added = add_metrics(shown, read_bytes(file), str(file))
        first = added.names[0]
        if added.unknown:
            say(f"mx view: {added.unknown} modules of {file} have no node in this graph")
    return shown, first


def _title(model: WorkingModel, source: str) -> str:
    return model.proto.graph.name or "stdin" if is_pipe(source) else Path(source).name


def _earlier(model: WorkingModel, title: str, against: str, statistics: bool, data_dir: Path | None) -> Earlier:
    """Return the model to show beside this one, and what differs from it."""
    from mxtools.comparison.comparison import compare
    from mxtools.views.build import structure
    from mxtools.views.html import Earlier

    other = read_model(against, data_dir)
    with progress("comparing"):
        found = compare(other, model)
        if found.is_of_strangers:
            say(f"mx view: no module of {against} is in {title}: are they of one model?")
        name = _title(other, against)
        name = f"{name} (before)" if name == title else name
        return Earlier(structure(other, name, statistics), found.notes(name, title), [*map(str, found.interface)])


def _page_of(source: str) -> str:
    """Return the file for a page if none is given; UsageError if something else than a page is there already."""
    from mxtools.errors import UsageError
    from mxtools.views.html import is_page

    if is_pipe(source):
        raise UsageError("a graph from stdin has no name for its page", "give -o FILE")
    page = Path(f"{Path(source).stem}.html")
    if page.exists() and not is_page(page):
        raise UsageError(f"{page} exists and is no page of mx view", "give -o FILE")
    return str(page)


def _show(page: Path) -> None:
    """Open a page in the user's browser; if there is none, say so."""
    import webbrowser

    if not webbrowser.open(page.resolve().as_uri()):
        say(f"mx view: no browser could be started here: open {page} yourself")


def _model_explorer(
    model: WorkingModel, shown: Structure, output: str, against: str | None, data_dir: Path | None
) -> list[str]:
    """Write the graph and the files beside it; return the names of the files."""
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
