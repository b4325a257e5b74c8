"""`mx compare`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from mxtools.views.tree import folded

from ..common import emit, figures, progress, read_model, read_trace_and_values, say
from ..options import DataDir, Fold, Inputs, Json, Markdown, Trace
from ..streams import is_pipe
from ..table import drawn, show, show_markdown

if TYPE_CHECKING:
    from mxtools.comparison.comparison import ComparedModule, Comparison

COLUMNS = ("module", "class", "nodes", "relative", "what differs")
NUMBERS = COLUMNS.index("relative")


def command(
    source: Annotated[str, Argument(metavar="A", help="ONNX file; '-' is stdin.", show_default=False)],
    other: Annotated[
        str, Argument(metavar="[B]", help="ONNX file to compare with A; '-' or nothing is stdin.", show_default=False)
    ] = "-",
    trace: Trace = None,
    inputs: Inputs = None,
    tolerance: Annotated[
        float,
        Option(min=0, metavar="RELATIVE", help="Largest relative difference that still counts as equal."),
    ] = 1e-5,
    fold: Fold = True,
    as_markdown: Markdown = False,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Lists the modules that differ, and ends with exit status 1 if the models differ.

    Names of nodes and tensors do not matter. Nodes are compared by operator, attributes and connections, weights by
    their elements. With --inputs or a recorded --trace, both models are run, and the tensors that leave each module
    are compared.

    Nodes that a tool added between two modules, such as a conversion, count for the module that contains both.

    Example: mx compare bert.tagged.onnx bert.int8.onnx
    """
    from mxtools.comparison.comparison import compare
    from mxtools.errors import UsageError
    from mxtools.files.reading import EmptyError
    from mxtools.functions.folded import unfolded
    from mxtools.traces.values import require_known

    if is_pipe(source) and is_pipe(other):
        raise UsageError("A and B cannot both come from stdin", "give the file of one, mx compare A B")
    sidecar, values = read_trace_and_values(trace, inputs)
    one = read_model(source, data_dir)
    try:
        two = read_model(other, data_dir)
    except EmptyError as error:
        if not is_pipe(other):
            raise
        raise UsageError("only one model is given, and stdin is empty", "give both, mx compare A B") from error
    if inputs and values:
        require_known(values, one.proto, sidecar, str(inputs))
    with progress("comparing"):
        one, two = unfolded(one), unfolded(two)
        found = compare(one, two)
        if trace or inputs:
            from mxtools.comparison.numbers import compare_numbers

            one.sidecar, one.values = sidecar, values
            compare_numbers(found, one, two)
    if json:
        emit(_data(found, tolerance))
    elif found.interface or found.differing(tolerance):
        rows = [COLUMNS, *_rows(found, tolerance, fold)]
        if not (trace or inputs):  # nothing was run, so there are no numbers
            rows = [(*row[:NUMBERS], *row[NUMBERS + 1 :]) for row in rows]
        (show_markdown if as_markdown else show)(rows)
    _conclude(found, tolerance)


def _conclude(found: Comparison, tolerance: float) -> None:
    """Print a summary; CheckError if there is a difference."""
    from mxtools.errors import CheckError

    differing = found.differing(tolerance)
    kinds = Counter(word for module in differing for word in module.differs(tolerance))
    if found.interface:
        kinds["interface"] = len(found.interface)
    if not kinds:
        say(f"mx compare: no difference in {len(found.modules)} modules")
        return
    listed = ", ".join(f"{word} {count}" for word, count in kinds.items())
    remedy = "see the table"
    if found.is_of_strangers:
        remedy = "no module is in both; if they are of one model, `mx tag --from` gives one the modules of the other"
    raise CheckError(f"{len(differing)} of {len(found.modules)} modules differ ({listed})", remedy)


def _rows(found: Comparison, tolerance: float, fold: bool) -> Iterator[tuple[str, ...]]:
    """Yield the rows of the table: how the interfaces differ, then the modules that differ and those around.

    With `fold`, siblings that differ in the same way are one row.
    """

    def told(module: ComparedModule) -> list[str]:
        return [cell.replace(f"{module.scope}.", "") for cell in _cells(module, tolerance)]

    for change in found.interface:
        yield f"({change.name})", "", "", "", f"{change.before or 'none'} → {change.after or 'none'}"
    for module in found.modules:
        if module is found.modules[0] or not module.tag:
            pruned = _pruned(module, tolerance)
            for name, class_name, inner in drawn(folded(pruned, told) if fold else pruned):
                if inner.differs(tolerance) or inner.children:
                    yield name, class_name, *_cells(inner, tolerance)


def _pruned(module: ComparedModule, tolerance: float) -> ComparedModule:
    """Return a module with only those children that differ, or contain a module that does."""
    children = [_pruned(child, tolerance) for child in module.children]
    return replace(module, children=[child for child in children if child.children or child.differs(tolerance)])


def _cells(module: ComparedModule, tolerance: float) -> tuple[str, ...]:
    before, after = module.nodes
    nodes = f"{before}" if before == after else f"{before} → {after}"
    apart = f"{module.distance.relative:.2g}" if module.distance else ""
    return nodes, apart, "; ".join(module.notes(tolerance))


def _data(found: Comparison, tolerance: float) -> dict[str, Any]:
    return {
        "differ": bool(found.interface or found.differing(tolerance)),
        "tolerance": tolerance,
        "interface": [change.to_dict() for change in found.interface],
        "modules": [_module(module, tolerance) for module in found.modules],
    }


def _module(module: ComparedModule, tolerance: float) -> dict[str, Any]:
    return {
        "scope": module.scope,
        "tag": module.tag,
        "differs": module.differs(tolerance),
        **({"only_in": module.only_in, "reason": module.reason} if module.only_in else {}),
        "nodes": module.nodes,
        "operators": module.operators,
        "rewired": module.rewired,
        "weights": [change.to_dict() for change in module.weights],
        "inputs": [change.to_dict() for change in module.inputs],
        "numbers": [{"tensor": n.tensor, "other": n.other, **figures(n.distance)} for n in module.numbers],
    }
