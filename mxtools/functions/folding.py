"""Fold modules into model-local functions: one function for all calls of a class that have the same structure.

Three layers of a graph with nine nodes, folded with what is inside of them:

    before    L0: MatMul Add Relu     L1: MatMul Add Relu     L2: MatMul Add Relu
    level 1   Linear(x, w0, b0) -> a  Relu  Linear(...) Relu  Linear(...) Relu        Linear:  MatMul, Add
    level 2   Layer(x, w0, b0)        Layer(...)              Layer(...)              Layer:   Linear, Relu

The innermost modules come first, so that a function of modules around them calls their functions, and layers that are
equal but for the attributes of a module inside stay equal. Each level takes time in the nodes and edges of the graph.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar

from onnx import FunctionProto, ModelProto, NodeProto

from mxtools.errors import AbsentError, InputError, UsageError
from mxtools.functions.bodies import Arranged, Bodies, Body, arranged
from mxtools.functions.calls import refill
from mxtools.functions.definitions import DOMAIN, VERSION, Definition, Level
from mxtools.functions.record import record_of
from mxtools.functions.refusals import refusal
from mxtools.functions.structure import names_made
from mxtools.graph.functions import model_nodes
from mxtools.graph.operators import names_of_operators, plain_domain, versions
from mxtools.graph.order import sort_nodes
from mxtools.graph.rename import fresh
from mxtools.pipeline.base import Report
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes import keys
from mxtools.scopes.annotations import Annotations
from mxtools.scopes.selection import Selection, calls_at_depth, selected_calls
from mxtools.scopes.tags import class_of

SMALLEST = 2
"""Nodes of the smallest module that is folded without being named: a call is no shorter than one node."""


@dataclass(frozen=True)
class FoldRequest:
    """Which modules to fold: the outermost of each selection, those at a depth, those that occur more than once.

    `nested` adds the modules inside of these; `exclude` are scopes that become no functions.
    """

    selections: tuple[Selection, ...] = ()
    depth: int | None = None
    repeated: bool = False
    nested: bool = False
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True)
class Folded:
    """A function: its name, the class of its modules, and their scopes; the nodes of its body, and what calls give."""

    name: str
    class_name: str
    scopes: tuple[str, ...]
    nodes: int
    inputs: int
    outputs: int
    attributes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data, for JSON."""
        return {key.removesuffix("_name") if key == "class_name" else key: v for key, v in asdict(self).items()}


@dataclass(frozen=True)
class FoldReport(Report):
    """The functions that were made, and why selected modules were left: the reason by scope.

    `nodes` are those of the main graph, bodies not counted, before and after; `check` the differences of outputs; None
    where no check was asked for.
    """

    kind: ClassVar[str] = "fold"

    functions: list[Folded]
    left: dict[str, str]
    nodes: tuple[int, int]
    check: list[dict[str, Any]] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data, for JSON."""
        functions = [function.to_dict() for function in self.functions]
        found = {"functions": functions, "left": self.left, "nodes": list(self.nodes)}
        return found if self.check is None else found | {"verify": self.check}


@dataclass
class _State:
    """What is known across levels: the functions that were made, and why modules were left."""

    functions: list[Folded] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    level: int = 0
    already: int = 0
    """Selected modules that are calls of functions already."""


def fold(model: WorkingModel, request: FoldRequest) -> FoldReport:
    """Fold modules of a model into functions, in place.

    Raises InputError where no node has a scope, or operators are imported twice, UsageError where nothing is selected,
    AbsentError where none of the modules that are selected can be a function.
    """
    model.require_tagged()
    model.graph.require_order()
    if model.graph.misplaced is not None:
        with model.changing() as proto:
            sort_nodes(proto)
    _require_one_version(model.proto)
    before = len(model.proto.graph.node)
    state = _State(level=_levels_before(model.proto))
    for scopes in _by_depth(model.annotations, _chosen(model.annotations, request)):
        state.level += 1
        _fold_level(model, scopes, state)
    if state.left and not (state.functions or state.already or request.repeated):
        scope, reason = next(iter(state.left.items()))
        raise AbsentError(f"{scope} cannot be a function: {reason}", "select other modules")
    return FoldReport(state.functions, state.left, (before, len(model.proto.graph.node)))


def _require_one_version(model: ModelProto) -> None:
    """Raise InputError where a model imports operators twice: runtimes disagree which counts, in functions too."""
    counted = Counter(plain_domain(entry.domain) for entry in model.opset_import)
    for domain, count in counted.items():
        if count > 1:
            what = f"the domain {domain!r}" if domain else "ONNX's operators"
            raise InputError(f"the model imports {what} {count} times", "keep one entry of its opset_import")


def _levels_before(model: ModelProto) -> int:
    """Return the number of the level that was folded last in a model that has functions already."""
    records = (record_of(node) for node in model_nodes(model) if keys.FOLDED in keys.props(node))
    return max((record.level for record in records if record), default=0)


def _chosen(annotations: Annotations, request: FoldRequest) -> set[int]:
    """Return the calls to fold."""
    if not (request.selections or request.depth is not None or request.repeated):
        raise UsageError("nothing is selected", "give ⟨each⟩, ⟨class⟩, ⟨depth⟩ or ⟨repeated⟩")
    hierarchy = annotations.hierarchy
    kept = selected_calls(annotations, Selection(exclude=request.exclude))
    bodies = Bodies(annotations)
    chosen = calls_at_depth(annotations, request.depth) if request.depth is not None else set[int]()
    for selection in request.selections:
        chosen.update(hierarchy.outermost(selected_calls(annotations, selection)))
    if request.nested:
        inside = (c for c in kept if any(around in chosen for around in hierarchy.lineage(c)))
        chosen |= {call for call in inside if bodies.size(call) >= SMALLEST}
    if request.repeated:
        chosen |= _repeated(bodies, kept, request.nested)
    return chosen & kept


def _repeated(bodies: Bodies, calls: Collection[int], nested: bool) -> set[int]:
    """Return the calls of which there is another with the same class and structure; the outermost, or all of them."""
    hierarchy = bodies.annotations.hierarchy
    groups: dict[tuple[str, str], list[int]] = {}
    large = (call for call in sorted(calls) if call and bodies.size(call) >= SMALLEST and not bodies.why_none(call))
    for body in bodies.aligned(map(bodies.of, large)):
        groups.setdefault(bodies.key(body), []).append(body.call)
    found = {call for group in groups.values() if len(group) > 1 for call in group}
    return found if nested else {c for c in found if found.isdisjoint(list(hierarchy.lineage(c))[1:])}


def _by_depth(annotations: Annotations, calls: Iterable[int]) -> list[list[str]]:
    """Return the scopes of calls by depth, the deepest first; numbers of calls change from level to level."""
    hierarchy = annotations.hierarchy
    levels: dict[int, list[str]] = {}
    for call in sorted(calls):
        levels.setdefault(hierarchy.depth[call], []).append(hierarchy.scopes[call])
    return [levels[depth] for depth in sorted(levels, reverse=True)]


def _fold_level(model: WorkingModel, scopes: Sequence[str], state: _State) -> None:
    """Fold modules of which none is inside another."""
    annotations, graph = model.annotations, model.graph
    bodies = {min(body.nodes): body for body in _bodies(model, scopes, state)}
    found = arranged(graph, bodies)
    for first, value in found.broken.items():
        scope = annotations.hierarchy.scopes[bodies.pop(first).call]
        state.left[scope] = f"it reads {value!r}, which is computed outside of it from what it returns"
    places = {node: place for place, node in enumerate(graph.main)}
    listed = model.proto.graph.value_info
    infos = {info.name: (place, info) for place, info in enumerate(listed)}
    level = Level(state.level, places, infos, len(listed), model.proto.opset_import)
    definitions = _definitions(model, bodies.values(), level, state)
    calls = {
        min(body.nodes): call
        for definition, made in definitions
        for body, call in zip(definition.bodies, made, strict=True)
    }
    if calls:
        with model.changing() as proto:
            _replace(proto, graph.nodes, arranged(graph, {first: bodies[first] for first in calls}), calls, level)
            _add(proto, [definition for definition, _ in definitions])


def _bodies(model: WorkingModel, scopes: Sequence[str], state: _State) -> list[Body]:
    """Return the bodies of modules that are no calls of functions yet; where one has none, note why."""
    annotations = model.annotations
    bodies, found = Bodies(annotations), []
    for scope in scopes:
        call = annotations.hierarchy.find(scope)
        if call is not None and bodies.is_folded(call):
            state.already += 1
            continue
        reason = bodies.why_none(call) if call is not None else "it has no nodes in the main graph"
        if call is not None and not reason:
            body = bodies.of(call)
            reason = "" if set(body.inputs).isdisjoint(names_made(body.protos)) else "a name has two meanings in it"
            reason = reason or refusal(model, body)
            if not reason:
                found.append(body)
                continue
        state.left[scope] = reason
    return bodies.aligned(found)


def _definitions(
    model: WorkingModel, bodies: Iterable[Body], level: Level, state: _State
) -> list[tuple[Definition, list[NodeProto]]]:
    """Return a definition for each group of bodies of the same class and structure, with the nodes that call it."""
    annotations = model.annotations
    groups: dict[tuple[str, str], list[Body]] = {}
    for body in sorted(bodies, key=lambda body: max(body.nodes)):
        groups.setdefault((class_of(annotations.hierarchy.tags[body.call]), body.structure), []).append(body)
    taken = {function.name for function in model.proto.functions if function.domain == DOMAIN} | names_of_operators()
    found = []
    for (class_name, _), group in groups.items():
        definition = Definition(annotations, group, fresh(class_name or "Module", taken), level)
        scopes = tuple(annotations.hierarchy.scopes[body.call] for body in group)
        calls = definition.calls()
        if calls:
            taken.add(definition.function.name)
            found.append((definition, calls))
            state.functions.append(_folded(definition.function, class_name, scopes))
        else:
            state.left |= dict.fromkeys(scopes, "its nodes would not be the same when they are unfolded")
    return found


def _folded(function: FunctionProto, class_name: str, scopes: tuple[str, ...]) -> Folded:
    sizes = len(function.node), len(function.input), len(function.output)
    return Folded(function.name, class_name, scopes, *sizes, tuple(function.attribute))


def _replace(
    model: ModelProto, nodes: Sequence[NodeProto], found: Arranged, calls: Mapping[int, NodeProto], level: Level
) -> None:
    """Put calls in the place of the nodes of bodies, which are given by their first nodes, and forget types inside."""
    graph = model.graph
    inside = {place for call in calls.values() if (record := record_of(call)) for _, place, _ in record.infos}
    rest = [level.places[unit] for unit in found.order if unit not in calls]
    if rest != sorted(rest):
        first = next(calls[unit] for unit in found.order if unit in calls)
        record = record_of(first)
        if record:
            replace(record, rest=rest).write(first)
    taken = {node.name for node in graph.node}
    for call in calls.values():
        call.name = fresh(call.name, taken)
        taken.add(call.name)
    kept = [calls.get(unit, nodes[unit]) for unit in found.order]
    infos = [info for place, info in enumerate(graph.value_info) if place not in inside]
    refill(graph.node, kept)
    refill(graph.value_info, infos)


def _add(model: ModelProto, definitions: Iterable[Definition]) -> None:
    """Add functions to a model, and what they need: the import of their domain, and the version with metadata."""
    model.functions.extend(definition.function for definition in definitions)
    if DOMAIN not in versions(model.opset_import):
        model.opset_import.add(domain=DOMAIN, version=VERSION)
    model.ir_version = max(model.ir_version, keys.FIRST_IR_WITH_NODE_METADATA)
