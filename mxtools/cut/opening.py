"""Open a body of If, Loop, Scan …, so that nodes in it can be cut out like any others.

A body is not a model: it reads tensors of the graphs around it, and its holder gives it its inputs. Four nodes:

    x -> Relu -> h -> Loop(n, go, h) -> y          body: (i, c, s) -> Add(s, h) -> t -> Tanh -> u          (c, u)

The obvious way is to make the body a graph of its own, with `h` as an input. It would have to decide for every tensor
from outside whether it is a weight, a constant, a shape or a result, and for the main graph all this is decided
already. So the nodes of one of its bodies replace the holder, and nodes that this body does not need are left out:

    x -> Relu -> h          (i, c, s, h) -> Add(s, h) -> t -> Tanh -> u          inputs: x, s; outputs: c, u

The result is a model that computes one iteration. A cut through it copies constants and shape chains of all the graphs
around, finds the types of its tensors, and has the inputs `s` and `h` if Relu is not part of it. Bodies in bodies are
opened from the outside to the inside. O(nodes + edges) for each.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import onnx
from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto

from mxtools.cut.boundary import boundary_infos
from mxtools.cut.inlining import inlined
from mxtools.errors import AbsentError, InputError
from mxtools.graph.index import NOWHERE, Graph, bodies
from mxtools.graph.order import sort_nodes
from mxtools.graph.rename import fresh, names_in, rename_values
from mxtools.graph.shapes import inferred_model, is_shaped, is_typed
from mxtools.graph.walk import nodes_behind
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes.annotations import Annotations
from mxtools.scopes.places import Place


@dataclass
class Opened:
    """A graph of a model as the main graph of another model.

    Attributes: `model`, that other model; `origin`, by node number in it, the number of the node in the original;
    `whole`, the original with those functions inlined through which the place leads; `place`, the rest of the place, in
    the numbers of `whole`; `renamed`, the new names of values of these functions; `outer`, by name, the values that had
    to be renamed because the place has others of the same name: how many steps of the place lead to their graph, and
    their name there.
    """

    model: WorkingModel
    origin: list[int]
    whole: WorkingModel
    place: Place
    renamed: dict[str, str]
    outer: dict[str, tuple[int, str]]

    @property
    def main(self) -> dict[int, int]:
        """The nodes of the main graph, by their numbers in the original."""
        return {self.origin[node]: node for node in reversed(self.model.graph.main)}


def opened(model: WorkingModel, place: Place) -> Opened:
    """Return the graph at a place of a model as a model, with what it reads from the graphs around it.

    Raises AbsentError if the place leads through a function that uses other versions of operators than the model,
    InputError if the nodes have no order.
    """
    if model.graph.misplaced is not None:  # the index numbers the nodes in order, so the lists must be in order too
        model.graph.require_order()
        model = model.copy()
        with model.changing() as proto:
            sort_nodes(proto)
    result = Opened(model, list(range(len(model.graph.nodes))), model, place, {}, {})
    places = model.annotations.places
    inner = next((n for n in range(len(model.graph.nodes)) if places.of(n) == place), NOWHERE)
    while (step := next(filter(places.is_call, result.place), None)) is not None:
        done = inlined(result.whole, step[0])
        result.origin = [result.origin[node] for node in done.origin]
        result.renamed |= done.renamed
        result.whole = result.model = done.model
        places = done.model.annotations.places
        result.place = places.of(result.origin.index(inner)) or ()
    numbers = {node: n for n, node in reversed(list(enumerate(range(len(result.origin)))))}
    for level, (holder, number) in enumerate(result.place):
        straight, kept, renamed = _straightened(result.model, numbers[holder], number)
        result.origin = [result.origin[node] for node in kept]
        inverse = {node: n for n, node in reversed(list(enumerate(kept)))}
        numbers = {node: inverse[n] for node, n in numbers.items() if n in inverse}
        for name, new in renamed.items():
            result.outer[new] = result.outer.pop(name, (level, name))
        result.model = result.model.with_proto(straight)
    return result


def require_whole(inner: Opened, annotations: Annotations, place: Place, nodes: Iterable[int]) -> None:
    """Raise AbsentError if a node is neither in an opened body nor only there to prepare what it reads."""
    graph, main, kept = annotations.graph, inner.main, set(inner.origin)
    results = set(graph.outputs)
    for node in nodes:
        made = graph.writes[node]
        used = {reader for value in made for reader in graph.readers[value]} - kept or results.intersection(made)
        if annotations.places.of(node) != place and (node not in main or used):
            scope, where = annotations.hierarchy.scopes[annotations.call[node] or 0], annotations.places.text(place)
            raise AbsentError(
                f"{scope} is partly inside {where} and partly outside",
                "select a module that contains both, or choose one with ⟨from-tensor⟩ and ⟨to-tensor⟩",
            )


def _straightened(model: WorkingModel, holder: int, number: int) -> tuple[ModelProto, list[int], dict[str, str]]:
    """Return a model in which one body of a main graph's node, and what that body needs, replaces the node.

    Also return, by node number in this model, the number before, and how values around the body were renamed.
    """
    model.write_annotations()
    graph, body = model.graph, list(bodies(model.graph.nodes[holder]))[number]
    inside = _inside(graph, holder, number)
    needed = {v for n in inside for v in graph.reads[n] if graph.home[v] == NOWHERE}
    own = {info.name for info in body.input} | {name for node in body.node for name in node.output}
    needed |= {graph.by_name[o.name] for o in body.output if o.name not in own and o.name in graph.by_name}
    captured = {graph.names[v] for v in needed}
    behind = nodes_behind(graph, needed, until=set[int]().__contains__)
    needed |= {v for n in behind for v in (*graph.needs[n], *graph.writes[n])}
    around = _around(model.proto.graph, {graph.names[v] for v in needed})
    around.node.extend(graph.nodes[n] for n in sorted(behind))
    taken = names_in(around) | names_in(body)
    wanted: dict[str, str] = {}
    for name in sorted(names_in(around) & names_in(body) - captured):
        wanted[name] = fresh(name, taken)
        taken.add(wanted[name])
    renamed = rename_values(around, wanted)
    kept = [n for n in range(len(graph.nodes)) if not graph.region[n] and graph.top(n) in behind]
    functions = [n for n in range(len(graph.nodes)) if graph.region[n]]
    return _joined(model, around, body, _given(model, holder, number)), [*kept, *inside, *functions], renamed


def _inside(graph: Graph, holder: int, number: int) -> range:
    """Return the nodes in a body of a node of the main graph, at any depth; their numbers are consecutive."""
    place = graph.main.index(holder)
    start = graph.main[place - 1] + 1 if place else 0
    held = iter([n for n in range(start, holder) if graph.owner[n] == holder])
    for body in list(bodies(graph.nodes[holder]))[: number + 1]:
        last = max((next(held) for _ in body.node), default=start - 1)
        start, inside = last + 1, range(start, last + 1)
    return inside


def _around(whole: GraphProto, names: set[str]) -> GraphProto:
    """Return what a graph says about some of its values, without nodes."""
    around = GraphProto()
    around.input.extend(info for info in whole.input if info.name in names)
    around.initializer.extend(tensor for tensor in whole.initializer if tensor.name in names)
    around.sparse_initializer.extend(tensor for tensor in whole.sparse_initializer if tensor.values.name in names)
    around.value_info.extend(info for info in (*whole.value_info, *whole.output) if info.name in names)
    around.quantization_annotation.extend(note for note in whole.quantization_annotation if note.tensor_name in names)
    return around


def _joined(model: WorkingModel, around: GraphProto, body: GraphProto, given: Iterable[ValueInfoProto]) -> ModelProto:
    """Return a model of a body and the graph around it; what the body is given is an input if anything reads it."""
    joined = ModelProto()
    joined.CopyFrom(model.proto)
    joined.ClearField("training_info")
    graph = joined.graph
    for field in _LISTS:
        graph.ClearField(field)
    for part in (around, body):
        graph.node.extend(part.node)
        graph.initializer.extend(part.initializer)
        graph.sparse_initializer.extend(part.sparse_initializer)
        graph.value_info.extend(part.value_info)
        graph.quantization_annotation.extend(part.quantization_annotation)
    read = names_in(GraphProto(node=body.node, output=body.output))
    graph.input.extend(around.input)
    graph.input.extend(info for info in given if info.name in read)
    graph.output.extend(body.output)
    return joined


_LISTS = ("node", "initializer", "sparse_initializer", "value_info", "quantization_annotation", "input", "output")


def _given(model: WorkingModel, holder: int, number: int) -> list[ValueInfoProto]:
    """Return the inputs of a body with their types: as declared, else as inferred, else as the holder implies.

    A source that knows the shape comes first. An input may have no type in the end; a cut that needs it is refused.
    """
    body = list(bodies(model.graph.nodes[holder]))[number]
    if all(map(is_shaped, body.input)):
        return list(body.input)
    inferred = inferred_model(model.proto)
    known = model.annotations.places.graph_at(inferred, ((holder, number),)) if inferred else body
    found = []
    for infos in zip(body.input, known.input, _handed(model, holder, body), strict=True):
        best = next(filter(is_shaped, infos), None) or next(filter(is_typed, infos), infos[0])
        found.append(ValueInfoProto(name=infos[0].name, type=best.type))
    return found


def _handed(model: WorkingModel, holder: int, body: GraphProto) -> list[ValueInfoProto]:
    """Return what a holder implies about the inputs of its body: a Loop counts, and both Loop and Scan carry inputs.

    A Loop may change the shapes of what it carries, and a Scan hands over slices, so only the element types stay.
    """
    operator, node = model.graph.operators[holder], model.graph.nodes[holder]
    if operator.is_named("Loop"):
        counters = [onnx.helper.make_tensor_value_info("", t, []) for t in (TensorProto.INT64, TensorProto.BOOL)]
    elif operator.is_named("Scan"):
        counters = []
    else:
        return list(body.input)
    carried = len(body.input) - len(counters)
    if not 0 <= carried <= len(node.input):  # no such body is valid
        return list(body.input)
    return [*counters, *(_without_shape(model, name) for name in node.input[len(node.input) - carried :])]


def _without_shape(model: WorkingModel, name: str) -> ValueInfoProto:
    """Return the type of a value of the main graph, which may be unknown; for a tensor, only its element type."""
    tensor = model.graph.initializers.get(model.graph.by_name.get(name, NOWHERE))
    if tensor is not None:
        return onnx.helper.make_tensor_value_info(name, tensor.data_type, None)
    try:
        info = ValueInfoProto()
        info.CopyFrom(boundary_infos(model.proto, model.graph, model.weights, [name])[name])
    except InputError:
        return ValueInfoProto(name=name)
    if info.type.HasField("tensor_type"):
        info.type.tensor_type.ClearField("shape")
    return info
