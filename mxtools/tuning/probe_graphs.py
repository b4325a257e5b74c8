"""The two graphs that units are measured with.

In one, all units stand side by side, and none is connected to another (`side_by_side`); a quantiser makes them small
there. The other is the model as it is, with a switch at each unit (`with_switches`). For a node B that reads a and
makes b:

    side by side     mx.given.a ─ B ─ b ─ Identity ─ b.mx.seen

    with switches    a ─ If ─ b        if the switch is on: what a quantiser made between mx.given.a and b.mx.seen
                                       else: B
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from mxtools.cut.operator_sets import reconciled
from mxtools.errors import InputError
from mxtools.files.weights import WeightStore, tensors_of
from mxtools.graph.functions import separate_functions
from mxtools.graph.index import Graph, graph_inputs
from mxtools.graph.operators import function_key
from mxtools.graph.opsets import import_missing
from mxtools.graph.rename import names_in, replace_values
from mxtools.graph.shapes import Array
from mxtools.graph.walk import nodes_behind
from mxtools.pipeline.working_model import WorkingModel
from mxtools.tuning.units import Unit

GIVEN, SMALL, SWITCH = "mx.given.", "mx.small.", "mx.is."
"""Prefixes of names: of inputs that units read, of what a quantiser made, and of switches."""
SEEN = ".mx.seen"
"""Suffix of the names of results as a node that is not quantised would read them."""


def results_of(graph: Graph, node: int) -> list[str]:
    """Return the names of the values that a node makes, without those that nobody reads."""
    return [graph.names[v] for v in graph.writes[node] if graph.readers[v] or v in graph.outputs]


def read_by(graph: Graph, nodes: Iterable[int]) -> list[str]:
    """Return the names of the values that nodes read, each once, without stored tensors."""
    return list(dict.fromkeys(graph.names[v] for n in nodes for v in graph.reads[n] if v not in graph.stored))


def side_by_side(model: ModelProto, graph: Graph, nodes: Sequence[int], values: Mapping[str, Array]) -> ModelProto:
    """Return a model that has only some nodes, not connected to each other.

    What they read is an input, one for all nodes that read the same value. Behind each result stands an Identity, in
    the place of the nodes that read it: they are not quantised, so the output is what a quantised node hands on to
    them. `values` has an example of each value that the nodes read and make, from which the types are taken.
    """
    part = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    part.graph.name = "units"
    read = read_by(graph, nodes)
    inputs = {name: GIVEN + name for name in read}
    for node in nodes:
        copy = part.graph.node.add()
        copy.CopyFrom(graph.nodes[node])
        copy.input[:] = [inputs.get(name, name) for name in copy.input]
    part.graph.input.extend(_info(inputs[name], values[name]) for name in read)
    for name in (name for node in nodes for name in results_of(graph, node)):
        part.graph.node.append(helper.make_node("Identity", [name], [name + SEEN], name=name + SEEN))
        part.graph.output.append(_info(name + SEEN, values[name]))
    stored = dict.fromkeys(v for node in nodes for v in graph.reads[node] if v in graph.initializers)
    part.graph.initializer.extend(graph.initializers[value] for value in stored)
    return part


def alone(units: WorkingModel, results: Sequence[str]) -> WorkingModel:
    """Return the part of units that stand side by side which makes some results, as a model that runs."""
    graph, proto = units.graph, units.proto
    seen = [name + SEEN for name in results]
    body = _behind(graph, seen)
    read = names_in(body)
    part = ModelProto(ir_version=proto.ir_version, opset_import=proto.opset_import, functions=proto.functions)
    part.graph.CopyFrom(body)
    del part.graph.output[:]
    part.graph.input.extend(value for value in proto.graph.input if value.name in read)
    part.graph.output.extend(value for value in proto.graph.output if value.name in seen)
    part.graph.initializer.extend(tensor for tensor in proto.graph.initializer if tensor.name in read)
    return units.with_proto(part)


def _info(name: str, example: Array) -> ValueInfoProto:
    """Return the name with the element type of an example and its number of dimensions, whose sizes are left open."""
    dims = [f"{name}.{axis}" for axis in range(example.ndim)]
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(example.dtype), dims)


def with_outputs(model: ModelProto, names: Iterable[str]) -> ModelProto:
    """Return a copy of a model whose outputs are just the values `names`, in that order, inner values too."""
    copy = ModelProto()
    copy.CopyFrom(model)
    known = {value.name: value for value in model.graph.output}
    del copy.graph.output[:]
    copy.graph.output.extend(known.get(name) or ValueInfoProto(name=name) for name in names)
    return copy


def switch(unit: Unit, precision: str) -> str:
    """Return the name of the input that chooses a precision for a unit."""
    return f"{SWITCH}{precision}.{unit.name}"


def with_switches(model: WorkingModel, units: Iterable[Unit], small: Mapping[str, WorkingModel]) -> WorkingModel:
    """Return a copy of a model with a switch for each unit and precision: an input, a boolean scalar (`switch`).

    `small` has the units side by side as a quantiser made them, by precision; tensors and functions of theirs become
    part of the copy. At most one switch of a unit may be on. Only what is chosen runs, as each node of a unit becomes
    an If:

        the switch for int8 is on:    the nodes that are int8
        else                          the switch for int4 is on:    the nodes that are int4
                                      else                          the node as it is

    Raises InputError if a quantiser made operators of a version that cannot be converted to that of the model.
    """
    graph, proto = model.graph, ModelProto()
    proto.CopyFrom(model.proto)
    unit_of = {node: unit for unit in units for node in unit.nodes}
    made = {precision: _added(precision, each, proto, model.weights) for precision, each in small.items()}
    switches: dict[str, None] = {}  # one for all nodes of a unit
    del proto.graph.node[:]
    for number in graph.main:
        node, results = graph.nodes[number], results_of(graph, number)
        for precision in (p for p in unit_of[number].precisions if p in made) if number in unit_of else ():
            condition = switch(unit_of[number], precision)
            switches[condition] = None
            own = _body([node], results)
            replace_values(own, {name: f"{name}.mx.not.{precision}" for name in results})  # a body has its own names
            node = helper.make_node(
                "If",
                [condition],
                results,
                name=f"{condition}/{results[0]}",
                then_branch=_behind(made[precision], [_small(name + SEEN, precision) for name in results]),
                else_branch=own,
            )
        proto.graph.node.append(node)
    proto.graph.input.extend(helper.make_tensor_value_info(name, TensorProto.BOOL, []) for name in switches)
    return model.with_proto(proto)


def _added(precision: str, small: WorkingModel, proto: ModelProto, weights: WeightStore) -> Graph:
    """Add what units in one precision need besides their nodes to a model, whose weights lie in the store `weights`.

    Return the graph of the units. There, what they read has the name that it has in the model, and all other values
    have names that are new to the model.
    """
    try:
        part, units = reconciled(small, proto), ModelProto()
    except InputError as error:
        raise InputError(
            f"the quantiser for {precision} makes operators that the model's operator sets do not have ({error})",
            "convert the model to a newer operator set first",
        ) from None
    units.CopyFrom(part.proto)
    separate_functions(units, proto)
    import_missing(proto, units)
    given = {value.name for value in graph_inputs(units)}
    names = names_in(units.graph)
    replace_values(units.graph, {n: n.removeprefix(GIVEN) if n in given else _small(n, precision) for n in names})
    for tensor in tensors_of(units):
        weights.adopt(tensor, part.weights)
    known = {function_key(function) for function in proto.functions}
    proto.functions.extend(function for function in units.functions if function_key(function) not in known)
    proto.graph.initializer.extend(units.graph.initializer)
    proto.ir_version = max(proto.ir_version, units.ir_version)
    return Graph(units)


def _small(name: str, precision: str) -> str:
    """Return the name that a value of units in one precision has beside the model."""
    return f"{SMALL}{precision}.{name}"


def _behind(graph: Graph, results: Sequence[str]) -> GraphProto:
    """Return a body with all nodes of a graph that make some values."""
    found = nodes_behind(graph, [graph.by_name[name] for name in results], until=lambda _: False)
    return _body([graph.nodes[node] for node in sorted(found)], results)


def _body(nodes: Sequence[NodeProto], results: Sequence[str]) -> GraphProto:
    """Return a body that has some nodes and returns some values."""
    return GraphProto(name="unit", node=nodes, output=[ValueInfoProto(name=name) for name in results])
