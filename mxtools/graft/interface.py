"""Check that a part fits into a model: its inputs and outputs are tensors of the model, with the same types."""

from __future__ import annotations

from onnx import ModelProto, TypeProto, ValueInfoProto

from mxtools.errors import InputError, suggestion
from mxtools.graph.index import NOWHERE, Graph, graph_inputs
from mxtools.graph.shapes import inferred_infos, is_typed, value_infos
from mxtools.graph.types import type_of, type_text, types_fit
from mxtools.scopes import keys
from mxtools.scopes.scope import ROOT


def check_interface(model: ModelProto, graph: Graph, part: ModelProto) -> None:
    """Raise InputError if an input or output of a part is not a tensor of the model, or has another type there."""
    given = {info.name: info for info in graph_inputs(part)}
    made = {info.name: info for info in part.graph.output if info.name not in given}
    for what, infos in (("input", given), ("output", made)):
        for name in infos:
            _require(graph, part, what, name)
    for name in made:
        if graph.by_name[name] in graph.inputs:
            raise InputError(
                f"output {name!r} of the part is an input of the model",
                "give it the name of the output that it replaces",
            )
    for what, infos in (("input", given), ("output", made)):
        for name, info in infos.items():
            _require_same_maker(graph, what, name, info)
    types = _types(model, graph, [*given, *made])
    for what, infos in (("input", given), ("output", made)):
        for name, info in infos.items():
            if name in types and not types_fit(types[name], info.type):
                raise InputError(
                    f"{what} {name!r} is {type_text(types[name])} in the model and {type_text(info.type)} in the part",
                    "keep the types of the part's inputs and outputs",
                )


def _is_swapped(graph: Graph, part: ModelProto) -> bool:
    """Return whether the given part has all inputs and outputs of the model, and so may be the model itself."""
    known = {info.name for info in part.graph.input} | {name for node in part.graph.node for name in node.output}
    return known.issuperset(graph.names[v] for v in (*set(graph.inputs) - graph.stored, *graph.outputs))


def _require(graph: Graph, part: ModelProto, what: str, name: str) -> None:
    value = graph.by_name.get(name)
    if value is not None and (graph.producer[value] != NOWHERE or value in graph.stored or value in graph.inputs):
        return
    if name in graph.names:
        raise InputError(
            f"{what} {name!r} of the part is in a body or a function, but only parts of the main graph can go back",
            "cut out the module that contains the body, change that, and put it back",
        )
    tensors = [n for n, v in graph.by_name.items() if graph.producer[v] != NOWHERE or v not in graph.stored]
    raise InputError(
        f"{what} {name!r} of the part is not a tensor of the model ({suggestion(name, tensors)})",
        "swap the two files: the model comes first, then the part"
        if _is_swapped(graph, part)
        else "keep the names of inputs and outputs, and graft into the model that the part was cut from",
    )


def _require_same_maker(graph: Graph, what: str, name: str, info: ValueInfoProto) -> None:
    """Raise InputError if another module makes a tensor in the model than made it where the part was cut out.

    This happens when a tool reuses a name: a quantiser gives the name of a Relu's result to the result of the
    convolution. A node that has moved out, to a caller, still counts as the same.
    """
    node = graph.producer[graph.by_name[name]]
    cut_at = keys.props(info).get(keys.SCOPE)
    now = None if node == NOWHERE else keys.props(graph.nodes[node]).get(keys.SCOPE)
    if None in (cut_at, now) or now in (cut_at, ROOT) or f"{cut_at}.".startswith(f"{now}."):
        return
    raise InputError(
        f"{what} {name!r} of the part is made in {cut_at}, but the model's tensor of that name in {now}",
        "⟨tag-from⟩ the model that the part was cut out of, which restores the names",
    )


def _types(model: ModelProto, graph: Graph, names: list[str]) -> dict[str, TypeProto]:
    """Return the types of tensors of a model, from the file, else inferred; unknown ones are left out."""
    tensors = [graph.initializers[v] for v in map(graph.by_name.__getitem__, names) if v in graph.initializers]
    weights = {t.name: type_of(t) for t in tensors}
    infos: dict[str, ValueInfoProto] = value_infos(model)
    if not all(name in weights or is_typed(infos.get(name)) for name in names):
        infos = inferred_infos(model)
    return {name: infos[name].type for name in names if name in infos} | weights
