"""Split a model by a map from modules to places: devices, partitions of an accelerator, machines.

    {".": "cpu", "encoder.layer.*": "gpu", "encoder.layer.3.output": "cpu"}

A node belongs to the place of the innermost module around it that the map names. One part for each place would have no
order: the CPU runs the embedding, the GPU the layers, and the CPU again the head. So nodes have stages. A node is in
the stage of what it reads, and one further than what it reads from another place:

    x -> Gather (cpu) -> MatMul (gpu) -> Relu (gpu) -> Gemm (cpu) -> y        stages 0, 1, 1, 2

No way leaves a place in a stage and comes back to that stage, so each place in a stage can be one part.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mxtools.errors import InputError, UsageError
from mxtools.files.json_text import decoded
from mxtools.files.regular import read_regular
from mxtools.graph.index import NOWHERE
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes.annotations import Annotations
from mxtools.scopes.hierarchy import ROOT_CALL
from mxtools.scopes.selection import Selection, selected_calls
from mxtools.split.division.units import live_nodes

LONGEST = 100
"""Characters of the name of a place."""


def read_placement(file: Path) -> dict[str, str]:
    """Return the place of each glob of scopes, as a JSON file has them; InputError if it is none."""
    try:
        found = decoded(read_regular(file))
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror})", "give another file") from None
    except ValueError:
        raise InputError(f"{file} is no JSON", 'write {"encoder.layer.*": "gpu", ".": "cpu"}') from None
    entries = found.items() if isinstance(found, dict) else [("", None)]
    if not entries or not all(_is_place(place) for _, place in entries):
        raise InputError(f"{file} is no map from scopes to places", 'write {"encoder.layer.*": "gpu", ".": "cpu"}')
    return {scope: str(place) for scope, place in entries}


def _is_place(place: object) -> bool:
    is_number = isinstance(place, int) and not isinstance(place, bool) and place >= 0
    return (isinstance(place, str) or is_number) and 0 < len(str(place)) <= LONGEST


def placed(model: WorkingModel, placement: Mapping[str, str]) -> tuple[list[list[int]], list[str]]:
    """Return the nodes of each part in the order to run them, and the place of each.

    Raises UsageError if a glob matches no scope, AbsentError if it names an absent module, InputError where a node
    reads a value that is computed from its own result.
    """
    annotations, graph = model.annotations, model.graph
    graph.require_order()
    live = [node for node in sorted(live_nodes(annotations)) if not graph.is_constant(node)]
    if not live:
        raise UsageError("nothing in the model depends on its inputs", "there is nothing to split")
    place = _places(annotations, live, placement)
    stage: dict[int, int] = {}
    for node in live:  # in an order in which each comes after what it reads
        makers = {graph.producer[value] for value in graph.needs[node]} & stage.keys()
        stage[node] = max((stage[maker] + (place[maker] != place[node]) for maker in makers), default=0)
    names = list(dict.fromkeys(placement.values()))
    number = {name: n for n, name in enumerate(names)}
    groups: dict[tuple[int, int], list[int]] = {}
    for node in live:
        groups.setdefault((stage[node], number[place[node]]), []).append(node)
    order = sorted(groups)
    return [groups[key] for key in order], [names[n] for _, n in order]


def _places(annotations: Annotations, live: list[int], placement: Mapping[str, str]) -> dict[int, str]:
    """Return the place of each node; of nodes in no module of the map, that of what they read, else of a reader."""
    graph, hierarchy = annotations.graph, annotations.hierarchy
    named: dict[int, str] = {}
    for scope, place in placement.items():
        calls = selected_calls(annotations, Selection(scopes=(scope,)))
        named.update(dict.fromkeys(hierarchy.outermost(calls), place))
    found: dict[int, str] = {}
    for node in live:
        around = hierarchy.lineage(annotations.call[node] or ROOT_CALL)
        own = next((named[call] for call in around if call in named), None)
        makers = (graph.producer[v] for v in graph.needs[node])
        own = own or next((found[m] for m in makers if m != NOWHERE and m in found), None)
        if own:
            found[node] = own
    for node in reversed(live):
        if node not in found:
            readers = (graph.top(reader) for value in graph.writes[node] for reader in graph.readers[value])
            found[node] = next((found[r] for r in readers if r in found), next(iter(placement.values())))
    return found
