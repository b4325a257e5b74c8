"""`mx tag`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from mxtools.passes.carry import Carry

from ..common import check_json, emit, process, say, tagged
from ..completion import strategies
from ..options import DataDir, Inputs, Json, Output, Source, Trace, takes

if TYPE_CHECKING:
    from mxtools.evidence.statements import NodeHistory
    from mxtools.pipeline.pipeline import Step
    from mxtools.pipeline.working_model import WorkingModel


@takes(Carry)
def command(
    steps: tuple[Any, ...],
    source: Source = "-",
    output: Output = "-",
    trace: Trace = None,
    previous: Annotated[
        str | None, Option("--from", metavar="TAGGED", help="Tagged model from which a tool made this one.")
    ] = None,
    inputs: Inputs = None,
    strategy: Annotated[
        str,
        Option(
            "--strategy",
            "-s",
            autocompletion=strategies,
            metavar="NAME",
            help="Strategy; by default auto, with --from previous. `mx strategies` lists all.",
        ),
    ] = "",
    strict: Annotated[
        bool, Option("--strict", help="End with exit status 1 if nothing is known about a node.")
    ] = False,
    explain: Annotated[
        list[str] | None,
        Option("--explain", metavar="NODE", help="Show what each source says about a node, and which pass decided."),
    ] = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """The scope, the tag and the evidence go into the metadata of each node.

    Nothing else in the model changes unless you ask for it.

    With --trace, the modules are those of the traced PyTorch model. Recorded values (mx trace --record), or --inputs,
    are used as evidence too. Without --trace, the file's own metadata and names are used. On a tagged file that
    has no trace in it, give --trace again; otherwise tags that came from the trace are replaced.

    With --from, tags are carried over from the model that was given to a tool. If the tool gave names of tensors to
    other tensors, as quantisers do, the old names are restored.

    Copies of the tags in other places (--doc-string, --rename and so on) are read as evidence, and kept up to date.

    Example: mx tag bert.onnx --trace bert.trace.json -o bert.tagged.onnx
    """
    from mxtools.evidence.statements import Witness
    from mxtools.strategies import table

    check_json(json, output)
    pipeline = table.get(strategy or ("previous" if previous else "auto")).passes(strict, *steps)
    witnesses: list[Witness] = []

    def watch(model: WorkingModel) -> Callable[[Step], None]:
        """Watch the nodes to explain."""
        witnesses.append(Witness(model, explain or ()))
        return witnesses[0].observe

    result = process(pipeline, source, output, data_dir, trace, inputs, previous, watch)
    histories = witnesses[0].histories()
    data, words = tagged(result, histories)
    if json:
        emit(data)
    else:
        for history in histories:
            for line in _in_words(history):
                say(line)
        say(f"mx tag: {words}")
    if data["foreign"]:
        count, first = sum(data["foreign"].values()), next(iter(data["foreign"]))
        say(
            f"mx tag: the trace was made from other code: {count} nodes name modules that it does not have, such as "
            f"{first}; they are in the nearest module that it has: trace the code that was exported, or tag without "
            "--trace"
        )
    elif unfound := data.get("unfound"):
        say(
            f"mx tag: the trace fits badly: {len(unfound)} modules of it have no nodes here, such as {unfound[0]}: "
            "trace the model that was exported, with mx trace --record, unless this is a part of it"
        )


def _in_words(history: NodeHistory) -> Iterator[str]:
    """Yield how a node got its scope, line by line."""
    yield history.node
    for said in history.said:
        meant = " or ".join(said.scopes) or "no module of the trace"
        yield f"  {said.source:20} {said.text}: {meant}"
    for name, scope, evidence in history.passes:
        yield f"  {name:20} {scope} ({evidence})"
    if history.merged:
        yield f"  does the work of     {', '.join(history.merged)}"
