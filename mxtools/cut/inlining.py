"""Put the nodes of a model-local function in the place of a node that calls it, so that they can be cut out.

The inputs and outputs of the function become the caller's tensors, and references to its attributes become the caller's
attributes. Other names of the function get a number if the model has them already.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import onnx
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto

from mxtools.errors import AbsentError
from mxtools.graph.functions import every_node, used_functions
from mxtools.graph.operators import function_key, operator_key, plain_domain
from mxtools.graph.rename import fresh, names_in, rename_in_function
from mxtools.pipeline.working_model import WorkingModel


@dataclass(frozen=True)
class Inlined:
    """A model with the nodes of a function in the place of one call, and without functions that nothing calls any more.

    Attributes: `model`; `origin`, by node number in this model, the number that the node had before; `renamed`, the new
    names of the function's values, by their names in the function.
    """

    model: WorkingModel
    origin: list[int]
    renamed: dict[str, str]


def inlined(model: WorkingModel, site: int) -> Inlined:
    """Return a model with the nodes of a function in the place of a node that calls it; this node is in no function.

    Raises AbsentError if the function uses other versions of operators than the model.
    """
    index, places = model.graph, model.annotations.places
    proto = model.copy().proto
    graph = places.graph_at(proto, places.of(site) or ())
    call = graph.node[places.position(site)]
    function = next(f for f in proto.functions if function_key(f) == operator_key(call))
    import_of_function(proto, function)
    renamed = _renamed(function, call, names_in(proto.graph))
    nodes = nodes_of_call(function, call, renamed)
    position = places.position(site)
    around = list(graph.node)
    del graph.node[:]
    graph.node.extend([*around[:position], *nodes, *around[position + 1 :]])
    region = next(r for r, sites in index.sites.items() if site in sites)
    own = [n for n, other in enumerate(index.region) if other == region]
    passed = len(nodes) - len(function.node)
    gone = _remove_uncalled(proto)
    after = (n for n in range(site + 1, len(index.nodes)) if index.region[n] not in gone)
    origin = [*range(site), *own, *[site] * passed, *after]
    return Inlined(model.with_proto(proto), origin, renamed)


def _remove_uncalled(model: ModelProto) -> set[int]:
    """Remove the functions that nothing calls; return their numbers, from 1."""
    called = {function_key(f) for f in used_functions(model, model.graph.node)}
    gone = [number for number, f in enumerate(model.functions, 1) if function_key(f) not in called]
    for number in reversed(gone):
        del model.functions[number - 1]
    return set(gone)


def nodes_of_call(function: FunctionProto, call: NodeProto, names: Mapping[str, str]) -> list[NodeProto]:
    """Return the nodes of a function as they stand in the place of a call, given the new names of its values.

    If an output is an input too, or is returned twice, a node at the end makes a copy of it.
    """
    copy = FunctionProto()
    copy.CopyFrom(function)
    rename_in_function(copy, names)
    for node in every_node(copy.node):
        _bind(node, call, function)
    results = [(names.get(name, name), result) for name, result in zip(function.output, call.output, strict=False)]
    copies = [(given, result) for given, result in results if result and given != result]
    return [*copy.node, *(onnx.helper.make_node("Identity", [given], [result]) for given, result in copies)]


def names_of_call(function: FunctionProto, call: NodeProto) -> dict[str, str]:
    """Return a call's names for the inputs and outputs of its function; the empty name for inputs that it omits."""
    given = [*call.input, *("" for _ in function.input[len(call.input) :])]
    names: dict[str, str] = {}
    for name, result in zip(function.output, call.output, strict=False):
        if result:
            names.setdefault(name, result)
    return names | dict(zip(function.input, given, strict=False))


def import_of_function(model: ModelProto | FunctionProto, function: FunctionProto) -> None:
    """Import the domains of a function into a model or another function.

    Raises AbsentError if that imports another version of one of them already.
    """
    known = {(plain_domain(entry.domain), entry.version) for entry in model.opset_import}  # a domain may stand twice
    domains = {domain for domain, _ in known}
    for entry in function.opset_import:
        domain = plain_domain(entry.domain)
        if domain not in domains:
            model.opset_import.add().CopyFrom(entry)
        elif (domain, entry.version) not in known:
            raise AbsentError(
                f"the function {function.name!r} uses other operator versions than the model",
                "select the module that calls it",
            )


def _renamed(function: FunctionProto, call: NodeProto, taken: Collection[str]) -> dict[str, str]:
    """Return the new names of a function's values; an input that a call omits gets the empty one."""
    names = names_of_call(function, call)
    used = set(taken)
    for name in sorted(names_in(GraphProto(node=function.node)) - names.keys()):
        if name in taken:
            names[name] = fresh(name, used)
        used.add(names.get(name, name))
    return names


def _bind(node: NodeProto, call: NodeProto, function: FunctionProto) -> None:
    """Replace the references of a node to attributes of its function by the attributes that the call gives."""
    given = {a.name: a for a in (*function.attribute_proto, *call.attribute)}
    attributes = list(_bound(node, given))
    del node.attribute[:]
    node.attribute.extend(attributes)


def _bound(node: NodeProto, given: dict[str, AttributeProto]) -> Iterator[AttributeProto]:
    """Yield the attributes of a node, without those that refer to an attribute that the call does not give."""
    for attribute in node.attribute:
        if not attribute.ref_attr_name:
            yield attribute
        elif attribute.ref_attr_name in given:
            bound = AttributeProto()
            bound.CopyFrom(given[attribute.ref_attr_name])
            bound.name = attribute.name
            yield bound
