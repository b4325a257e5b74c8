"""`mx tree`."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

from typer import Option

from mxtools.errors import printable
from mxtools.views.tree import Branch, Key, folded, sorted_by, tree

from ..common import emit, known, read_model, short
from ..options import DataDir, Depth, Dims, Fold, Json, Markdown, Source, takes_selection
from ..streams import write_text
from ..table import drawn, show, show_markdown

COLUMNS = ("module", "class", "nodes", "parameters", "bytes", "multiply-adds", "activations", "evidence", "operators")


@takes_selection
def command(
    selected: Any,
    source: Source = "-",
    depth: Depth = None,
    sort: Annotated[
        Key | None,
        Option(
            metavar="nodes|parameters|bytes|multiply-adds|activations",
            help="Sort siblings by this, largest first; by default in the order of the graph.",
        ),
    ] = None,
    dim: Dims = None,
    fold: Fold = True,
    csv_: Annotated[bool, Option("--csv", help="Write all calls as CSV, one per line.")] = False,
    markdown: Markdown = False,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Each line is one call of a module, and counts everything in it.

    The columns: nodes; parameters and bytes of the weights that they use, each weight once; multiply-adds of
    convolutions and matrix products ('≥' if some shapes are unknown); activations, the most memory that its values take
    at once in a run; the evidence for the scopes, by share of nodes; and the operators.

    Shapes with symbolic dimensions are known once --dim gives their sizes.

    With selectors, only nodes that `mx filter` would select are counted.

    Example: mx tree bert.tagged.onnx --depth 2 --dim batch=8 --sort activations
    """
    from mxtools.costs.dimensions import sizes_of
    from mxtools.errors import UsageError
    from mxtools.functions.folded import unfolded
    from mxtools.scopes.selection import nodes_anywhere, selected_calls

    if csv_ + markdown + json > 1:
        raise UsageError("--csv, --markdown and --json are several formats", "give one")
    model = read_model(source, data_dir)
    model.require_tagged()
    model = unfolded(model)
    annotations = model.annotations
    chosen = None
    if selected:
        calls = selected_calls(annotations, selected[0])
        chosen = nodes_anywhere(annotations, calls, selected[1])
    root = tree(annotations, model.costs(sizes_of(dim or ())), chosen)
    root = sorted_by(root, sort) if sort else root
    if json:
        emit(root.to_dict())
    elif csv_:
        _csv(branch for _, _, branch in drawn(root, depth))
    else:
        rows = [COLUMNS, *(_cells(*line) for line in drawn(folded(root) if fold else root, depth))]
        (show_markdown if markdown else show)(rows)


def _csv(branches: Iterable[Branch]) -> None:
    """Print branches as CSV; a column with counts by name is one text, `name:count` separated by spaces."""
    rows = [branch.row() for branch in branches]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cells = {k: _counted(v.items()) if isinstance(v, dict) else v for k, v in row.items()}
        writer.writerow({k: printable(v) if isinstance(v, str) else v for k, v in cells.items()})
    write_text(text.getvalue(), "-")


def _cells(name: str, class_name: str, branch: Branch) -> tuple[str, ...]:
    products = known(branch.multiply_adds, branch.uncounted)
    activations = known(branch.activations, branch.unsized, "B")
    figures = str(branch.nodes), short(branch.parameters), short(branch.bytes, " ") + "B", products, activations
    return name, class_name, *figures, " ".join(_shares(branch.evidence)), _counted(branch.operators.most_common(4))


def _shares(counts: Counter[str]) -> Iterator[str]:
    """Return the two most frequent words with their shares."""
    total = counts.total()
    for word, count in counts.most_common(2):
        yield f"{word} <1%" if count < 0.005 * total else f"{word} {count / total:.0%}"


def _counted(counts: Iterable[tuple[str, int]]) -> str:
    return " ".join(f"{name}:{count}" for name, count in counts)
