"""Reduce a model to selected modules, operators or stretches between tensors."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar

from mxtools.cut.cut import Cut, extract
from mxtools.cut.declarations import Dims, declare
from mxtools.cut.opening import Opened, opened, require_whole
from mxtools.cut.surroundings import GivenNodes, auxiliary_behind, between, pieces, place_of_tensors
from mxtools.errors import UsageError
from mxtools.graph.index import Graph
from mxtools.graph.rename import fresh, rename_values
from mxtools.graph.types import is_quantised
from mxtools.pipeline.base import Report
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes.annotations import Annotations
from mxtools.scopes.equal_work import EqualWork
from mxtools.scopes.hierarchy import ROOT_CALL
from mxtools.scopes.scope import ROOT, enclosing_scopes
from mxtools.scopes.selection import Selection, calls_of, nodes_anywhere, place_of

if TYPE_CHECKING:
    from mxtools.cut.part_check import PartCheck
    from mxtools.cut.signature import Signature


class Auxiliary(StrEnum):
    """Which of the nodes that lead to a selection come along."""

    CONTEXT = "context"
    ALL = "all"
    NONE = "none"


class Io(StrEnum):
    """What the inputs and outputs of a part are: tensors at its boundary, or those of the module's `forward`."""

    TENSORS = "tensors"
    MODULE = "module"


@dataclass(frozen=True)
class CutRequest:
    """What to cut out (by selectors, by operators, by the tensors at which it begins and ends), and how.

    `shapes` and `types` are those of tensors for which inference finds none.
    """

    selection: Selection
    operators: tuple[str, ...] = ()
    from_tensors: tuple[str, ...] = ()
    to_tensors: tuple[str, ...] = ()
    auxiliary: Auxiliary = Auxiliary.CONTEXT
    io: Io = Io.TENSORS
    verify: bool = False
    shapes: Mapping[str, Dims] = field(default_factory=dict)
    types: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_ranged(self) -> bool:
        """Whether tensors say where the part begins or ends."""
        return bool(self.from_tensors or self.to_tensors)

    @property
    def is_selected(self) -> bool:
        """Whether selectors or operators say what the part holds."""
        return self.selection.is_positive or bool(self.operators)


@dataclass(frozen=True)
class FilterReport(Report):
    """What was cut out: its nodes, inputs and outputs.

    `pieces` is the number of pieces into which the selection falls because no tensor connects them. `check` compares
    the part's outputs with the whole model's; None if no check was asked for. `quantised` are the outputs that the
    whole model does not return and that are numbers of 8 bits or less, which stand for others.
    """

    kind: ClassVar[str] = "filter"

    nodes: int
    inputs: list[str]
    outputs: list[str]
    pieces: int
    check: PartCheck | None = None
    quantised: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data, for JSON; the last two entries only if there is something to say."""
        found = {"nodes": self.nodes, "inputs": self.inputs, "outputs": self.outputs, "pieces": self.pieces}
        found |= {"verify": self.check.differences} if self.check else {}
        return found | ({"quantised": list(self.quantised)} if self.quantised else {})


def filter_model(model: WorkingModel, request: CutRequest) -> FilterReport:
    """Reduce a model, in place, to the requested nodes and what they need.

    Raises UsageError if nothing is selected, AbsentError if the graph no longer has a selected module, or only a part
    of it, CheckError if the part computes something else than the whole model.
    """
    found = _calls(model, request)
    nodes = nodes_anywhere(model.annotations, found, request.operators) if found is not None else None
    inner = _opened(model, nodes, request)
    straight = inner.model if inner else model
    declare(straight, request.shapes, request.types)
    whole = model.copy() if request.verify else None
    graph, annotations = straight.graph, straight.annotations
    scopes = {model.annotations.hierarchy.scopes[call] for call in found or ()}
    calls = {call for scope in scopes if (call := annotations.hierarchy.find(scope)) is not None}
    chosen, outputs = _chosen(graph, nodes, inner, request)
    if request.auxiliary is Auxiliary.ALL:
        chosen |= auxiliary_behind(annotations, chosen)
    signature = _signature(straight, calls, request, inner is not None) if request.io is Io.MODULE else None
    names = signature.outputs() if signature else {}
    foreign = GivenNodes(annotations, chosen)
    copying = request.auxiliary is not Auxiliary.NONE
    wanted = names or Cut.ordered(graph.outputs, sorted(outputs))
    cut = Cut(graph, chosen, foreign, wanted, copying, EqualWork(annotations, calls))
    names |= signature.inputs(cut.inputs) if signature else {}
    separate = pieces(graph, chosen)
    names |= _own_names(annotations, cut, _take_over(annotations, calls, chosen))
    _forget_others(annotations, calls)
    with model.changing() as proto:
        straight.write_annotations()
        extract(straight.proto, cut, model.weights)
        if inner:
            proto.CopyFrom(straight.proto)
        check = _check(whole, model, inner) if whole else None
        new_names = {graph.names[value]: name for value, name in names.items()}
        rename_values(proto.graph, new_names)
    inputs, outputs_ = ([value.name for value in values] for values in (proto.graph.input, proto.graph.output))
    ends = zip(proto.graph.output, cut.outputs, strict=True)
    small = tuple(
        o.name for o, value in ends if value not in graph.outputs and is_quantised(o.type.tensor_type.elem_type)
    )
    return FilterReport(len(proto.graph.node), inputs, outputs_, separate, check and check.renamed(new_names), small)


def _take_over(annotations: Annotations, calls: Collection[int], chosen: Collection[int]) -> list[int]:
    """Give chosen nodes in calls that are not selected the scopes of equal calls that are selected; return these nodes.

    So the part has nodes for the call for which it was cut out, although the whole model has them for another call.
    """
    stands_for = {equal: call for call, equal in annotations.equal.items() if call in calls and equal not in calls}
    taken = []
    for node in chosen if stands_for or annotations.equal_at else ():
        call, evidence = annotations.call[node], annotations.evidence[node]
        others = annotations.equal_at.get(node, ()) if call not in calls else ()
        own = next((c for c in others if c in calls), stands_for.get(call)) if call is not None else None
        if own is not None and evidence is not None:
            annotations.set(node, own, evidence)
            annotations.equal_at.pop(node, None)
            taken.append(node)
    if stands_for:
        scopes = {annotations.hierarchy.scopes[call] for call in stands_for.values()}
        annotations.write_absent({scope: why for scope, why in annotations.absent.items() if scope not in scopes})
    return taken


def _forget_others(annotations: Annotations, calls: Collection[int]) -> None:
    """Leave out of the list of absent modules those that are not inside of selected calls: the part never had them."""
    outer = {annotations.hierarchy.scopes[call] for call in annotations.hierarchy.outermost(calls)}
    absent = annotations.absent
    inside = {s: why for s, why in absent.items() if not outer.isdisjoint((s, *enclosing_scopes(s)))}
    if outer and ROOT not in outer and inside != absent:
        annotations.write_absent(inside)


def _own_names(annotations: Annotations, cut: Cut, nodes: Collection[int]) -> dict[int, str]:
    """Return names for the inner values of nodes that were taken over, so that the part can stand beside the others."""
    graph, names = annotations.graph, {}
    taken = set(graph.names)
    for node in nodes:
        scope = annotations.hierarchy.scopes[annotations.call[node] or ROOT_CALL]
        for value in graph.writes[node]:
            if value not in cut.outputs:
                names[value] = fresh(f"{scope}/{graph.names[value].rpartition('/')[2]}", taken)
                taken.add(names[value])
    return names


def _signature(model: WorkingModel, calls: set[int], request: CutRequest, is_inner: bool) -> Signature:
    """Return the signature of the selected call; UsageError without a trace, or if not exactly one call is selected.

    An opened body does not run on the recorded inputs, so nothing is matched by value there.
    """
    from mxtools.cut.signature import Signature
    from mxtools.matching.traced_values import matched_values

    annotations, sidecar = model.annotations, model.traced
    if not sidecar:
        raise UsageError("⟨io-module⟩ needs a trace, which has the inputs of the module", "give ⟨trace⟩")
    outermost = annotations.hierarchy.outermost(calls)
    if len(outermost) != 1 or request.operators or request.is_ranged:
        raise UsageError("⟨io-module⟩ takes one whole module", "select one with ⟨scope⟩")
    values = None if is_inner else model.values
    matches = matched_values(model, sidecar, values, transposed=False) if values else None
    return Signature(model, sidecar, outermost[0], matches)


def _calls(model: WorkingModel, request: CutRequest) -> set[int] | None:
    """Return the selected calls; None if only tensors say what is selected."""
    if not (request.is_ranged or request.is_selected):
        raise UsageError("nothing is selected", "give ⟨scope⟩, ⟨by-tag⟩, ⟨class⟩, ⟨op⟩, ⟨from-tensor⟩ or ⟨to-tensor⟩")
    if not (request.is_selected or request.selection.exclude):
        return None
    model.require_tagged()
    return calls_of(model.annotations, request.selection)


def _opened(model: WorkingModel, nodes: Collection[int] | None, request: CutRequest) -> Opened | None:
    """Return the opened body or function that contains what is requested; None if it is in the main graph."""
    annotations = model.annotations
    deciding: set[int] = set()
    if request.is_ranged:
        among = {annotations.places.of(node) for node in nodes or ()}
        place = place_of_tensors(annotations.places, (*request.from_tensors, *request.to_tensors), among)
    else:
        place, deciding = place_of(annotations, nodes or ())
    if not place:
        return None
    inner = opened(model.copy() if request.verify else model, place)
    if request.verify and inner.whole is inner.model:  # the cut changes the model, and the whole runs afterwards
        inner.whole = inner.whole.copy()
    require_whole(inner, annotations, place, deciding)
    return inner


def _chosen(
    graph: Graph, nodes: Collection[int] | None, inner: Opened | None, request: CutRequest
) -> tuple[set[int], set[int]]:
    """Return the selected nodes, and the values that the request wants as outputs; none if it names no tensors."""
    if nodes is not None:
        nodes = {n for n in graph.main if (inner.origin[n] if inner else n) in nodes}
    outputs = set[int]()
    chosen = nodes or set()
    if request.is_ranged:
        renamed = inner.renamed if inner else {}
        ends = ([renamed.get(t, t) for t in tensors] for tensors in (request.from_tensors, request.to_tensors))
        chosen, outputs = between(graph, *ends)
        if nodes is not None:
            chosen &= nodes
            outputs = {value for value in outputs if graph.producer[value] in chosen}
    if not chosen:
        raise UsageError("no selected node lies between ⟨from-tensor⟩ and ⟨to-tensor⟩", "select more")
    return chosen, outputs if request.to_tensors else set()


def _check(whole: WorkingModel, part: WorkingModel, inner: Opened | None) -> PartCheck:
    """Compare a part with the whole; ONNX Runtime is imported only here."""
    from mxtools.cut.part_check import check_part

    return check_part(whole, part, inner)
