"""Read values inside of bodies: the whole model is changed to return them, and run.

ONNX Runtime returns only values of the main graph. So each wanted value becomes a result of the body that it is in, and
of each holder on the way out. How this works depends on the holder:

- If: the other branch returns an empty tensor instead;
- Loop: carries the value from iteration to iteration, beginning with an empty tensor, so the last value is left;
- Scan or SequenceMap: stacks the values of all iterations, and the last one is taken.

The values must be those of *one* iteration. A branch in a Loop need not run in the last iteration, and an iteration in
which another branch ran says nothing about this one. So each body also returns whether it ran, and a Loop carries the
values on if it did not:

    Loop body: ran, v = If(c) <then: true, v · else: false, []>
               carried_ran = Or(ran, carried_ran)
               carried_v   = If(ran) <v · carried_v>
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto

from mxtools.errors import CheckError
from mxtools.graph.index import bodies
from mxtools.graph.operators import FIRST_VERSION, Operator, versions
from mxtools.graph.rename import fresh, names_in
from mxtools.graph.shapes import Array
from mxtools.pipeline.working_model import WorkingModel
from mxtools.runtime.sessions import inner_values
from mxtools.scopes.places import Place


def body_values(
    model: WorkingModel, place: Place, wanted: Mapping[str, tuple[int, str]], types: Mapping[str, TypeProto]
) -> dict[str, Array]:
    """Return values in and around a body, all of the last iteration in which it ran, on the model's inputs.

    `wanted` says for each value how many steps of the place lead to its graph, and its name there. Raises CheckError if
    the body does not run, or a value cannot be taken out of it; InputError if ONNX Runtime cannot run it.
    """
    proto = model.copy().proto
    outlet = _Outlet(model, proto.graph, place, types)
    found = outlet.through(proto.graph, 0, wanted)
    outlet.finish(proto)
    inputs = model.inputs() | outlet.given
    names = {*found.values.values(), found.ran} - inputs.keys()
    values = inputs | dict(inner_values(proto, model.weights, inputs, dict.fromkeys(sorted(names), 0)))
    if not values[found.ran]:
        where = model.annotations.places.text(place)
        raise CheckError(
            f"nothing was compared, because {where} does not run on these inputs", "give ⟨inputs⟩ that make it run"
        )
    return {name: values[at] for name, at in found.values.items()}


@dataclass
class _Found:
    """The names of the wanted values in a graph, and of the flag that says whether they are valid: their body ran."""

    values: dict[str, str]
    ran: str


class _Outlet:
    """Leads values out of a body, through the holders around it."""

    def __init__(self, model: WorkingModel, graph: GraphProto, place: Place, types: Mapping[str, TypeProto]) -> None:
        """Take a model, a copy of its main graph, which gets changed, and the types of the values."""
        import numpy as np

        self._operators, self._places = model.graph.operators, model.annotations.places
        self._graph, self._place = graph, place
        self._version = versions(model.proto.opset_import).get("", FIRST_VERSION)
        self._types = {name: _without_shape(type_) for name, type_ in types.items()}
        self._taken = names_in(graph)
        self._first: list[NodeProto] = []
        self._true, self._false, self._zero, self._one = (
            self._constant(onnx.numpy_helper.from_array(np.array(value))) for value in (True, False, 0, 1)
        )
        self._no_size = self._name("no_size")
        self.given = {self._no_size: np.array([0])}
        self._empty = {name: self._nothing(name, type_) for name, type_ in self._types.items()}

    def through(self, graph: GraphProto, level: int, wanted: Mapping[str, tuple[int, str]]) -> _Found:
        """Turn the wanted values of a graph and of the bodies in it into values of this graph."""
        own = {name: at for name, (depth, at) in wanted.items() if depth == level}
        if level == len(self._place):
            return _Found(own, self._true)
        holder, number = self._place[level]
        operator, node = self._operators[holder], graph.node[self._places.position(holder)]
        body = list(bodies(node))[number]
        inner = self.through(body, level + 1, wanted)
        if operator.is_named("If"):
            found = self._from_branch(node, number, inner)
        elif operator.is_named("Loop"):
            found = self._from_loop(node, body, inner)
        elif operator.is_named("Scan"):
            _require_no_batches(operator, node)
            found = self._from_stacks(graph, node, body, inner)
        elif operator.is_named("SequenceMap"):
            found = self._from_stacks(graph, node, body, inner)
        else:
            raise _unreadable(f"values in the body of {node.op_type} {node.name!r}")
        return _Found(own | found.values, found.ran)

    def _from_branch(self, node: NodeProto, taken: int, inner: _Found) -> _Found:
        outputs, nothing = self._fresh(inner), _Found({name: self._empty[name] for name in inner.values}, self._false)
        for number, branch in enumerate(bodies(node)):
            self._return(branch, inner if number == taken else nothing, len(branch.output))
        node.output.extend([*outputs.values.values(), outputs.ran])
        return outputs

    def _from_loop(self, node: NodeProto, body: GraphProto, inner: _Found) -> _Found:
        node.input.extend("" for _ in range(2 - len(node.input)))
        carried = len(node.input) - 2
        before, after = self._fresh(inner), self._fresh(inner)
        for name, value in before.values.items():
            body.input.append(ValueInfoProto(name=value, type=self._types[name]))
            body.node.append(self._either(inner.ran, inner.values[name], value, after.values[name], self._types[name]))
            node.input.append(self._empty[name])
        body.input.append(ValueInfoProto(name=before.ran, type=_BOOL))
        body.node.append(onnx.helper.make_node("Or", [inner.ran, before.ran], [after.ran]))
        node.input.append(self._false)
        self._return(body, after, 1 + carried)
        outputs, stacked = self._fresh(inner), list(node.output)[carried:]
        node.output[:] = [*_padded(node.output[:carried], carried), *outputs.values.values(), outputs.ran, *stacked]
        return outputs

    def _from_stacks(self, graph: GraphProto, node: NodeProto, body: GraphProto, inner: _Found) -> _Found:
        """Take the last item of what a Scan stacks to a tensor, or a SequenceMap to a sequence."""
        stacks, outputs = self._fresh(inner), self._fresh(inner)
        node.output[:] = [*_padded(node.output, len(body.output)), *stacks.values.values(), stacks.ran]
        self._return(body, inner, len(body.output))
        for attribute in node.attribute:
            if attribute.name in ("scan_output_axes", "scan_output_directions"):
                attribute.ints.extend(0 for _ in range(len(inner.values) + 1))
        size, count, last, some = (self._name(word) for word in ("size", "count", "last", "some"))
        is_scan = node.op_type == "Scan"
        if is_scan:
            graph.node.append(onnx.helper.make_node("Shape", [stacks.ran], [size]))
            graph.node.append(onnx.helper.make_node("ReduceProd", [size], [count], keepdims=0))
        else:
            graph.node.append(onnx.helper.make_node("SequenceLength", [stacks.ran], [count]))
        graph.node.append(onnx.helper.make_node("Sub", [count, self._one], [last]))
        graph.node.append(onnx.helper.make_node("Greater", [count, self._zero], [some]))
        for name, stack in (*stacks.values.items(), ("", stacks.ran)):
            type_, empty = (self._types[name], self._empty[name]) if name else (_BOOL, self._false)
            taken = onnx.helper.make_node("Gather" if is_scan else "SequenceAt", [stack, last], [self._name(stack)])
            output = outputs.values[name] if name else outputs.ran
            graph.node.append(self._either(some, taken, empty, output, type_))
        return outputs

    def finish(self, model: ModelProto) -> None:
        """Put the nodes that make empty values in front of all others, and adapt the model's inputs and IR version."""
        nodes = [*self._first, *self._graph.node]
        del self._graph.node[:]
        self._graph.node.extend(nodes)
        self._graph.input.append(onnx.helper.make_tensor_value_info(self._no_size, TensorProto.INT64, [None]))
        model.ir_version = max(model.ir_version, FIRST_IR_WITH_FREE_INITIALIZERS)

    def _return(self, body: GraphProto, given: _Found, position: int) -> None:
        """Make values outputs of a body, from a position on, each through an Identity, whatever it is in the body."""
        outputs = list(body.output)
        added = []
        for name, value in (*given.values.items(), ("", given.ran)):
            result = self._name(value)
            body.node.append(onnx.helper.make_node("Identity", [value], [result]))
            added.append(ValueInfoProto(name=result, type=self._types[name] if name else _BOOL))
        del body.output[:]
        body.output.extend([*outputs[:position], *added, *outputs[position:]])

    def _either(self, ran: str, one: str | NodeProto, other: str, output: str, type_: TypeProto) -> NodeProto:
        """Return an If that gives the value `one`, or what that node makes, if `ran` is true, and `other` if not."""
        graphs = []
        for value in (one, other):
            result = self._name(output)
            node = onnx.helper.make_node("Identity", [value], [result]) if isinstance(value, str) else value
            graphs.append(GraphProto(name="b", node=[node], output=[ValueInfoProto(name=node.output[0], type=type_)]))
        return onnx.helper.make_node("If", [ran], [output], then_branch=graphs[0], else_branch=graphs[1])

    def _fresh(self, found: _Found) -> _Found:
        return _Found({name: self._name(name) for name in found.values}, self._name("ran"))

    def _name(self, name: str) -> str:
        new = fresh(name, self._taken)
        self._taken.add(new)
        return new

    def _nothing(self, name: str, type_: TypeProto) -> str:
        """Return the name of an empty value of a type; type inference does not even learn the rank of a tensor.

        Otherwise ONNX Runtime would refuse an If that returns this in one branch and a tensor of another shape in the
        other.
        """
        result = self._name("nothing")
        if type_.HasField("tensor_type"):
            tensor = self._constant(TensorProto(data_type=type_.tensor_type.elem_type, dims=[0]))
            node = onnx.helper.make_node("Reshape", [tensor, self._no_size], [result])
        elif type_.sequence_type.elem_type.HasField("tensor_type") and self._version >= FIRST_IDENTITY_OF_SEQUENCES:
            element = type_.sequence_type.elem_type.tensor_type.elem_type
            node = onnx.helper.make_node("SequenceEmpty", [], [result], dtype=element)
        else:
            raise _unreadable(f"the value of {name!r} in a body, which is not a tensor,")
        self._first.append(node)
        return result

    def _constant(self, tensor: TensorProto) -> str:
        tensor.name = self._name("constant")
        self._graph.initializer.append(tensor)
        return tensor.name


FIRST_IR_WITH_FREE_INITIALIZERS = 4
FIRST_SCAN_WITHOUT_BATCHES = 9
FIRST_IDENTITY_OF_SEQUENCES = 14

_BOOL = onnx.helper.make_tensor_type_proto(TensorProto.BOOL, [])


def _without_shape(type_: TypeProto) -> TypeProto:
    plain = TypeProto()
    plain.CopyFrom(type_)
    if plain.HasField("tensor_type"):
        plain.tensor_type.ClearField("shape")
    return plain


def _require_no_batches(operator: Operator, node: NodeProto) -> None:
    """Raise CheckError for the first version of Scan, which runs its body for each item of a batch."""
    if operator.asked and operator.asked[2] < FIRST_SCAN_WITHOUT_BATCHES:
        raise _unreadable(f"values in the body of {node.op_type} {node.name!r} of opset {operator.asked[2]}")


def _unreadable(what: str) -> CheckError:
    return CheckError(f"nothing was compared, because {what} cannot be read", "cut it out without verification")


def _padded(names: Sequence[str], count: int) -> list[str]:
    """Return names of outputs, filled up with empty names for outputs that are omitted at the end."""
    return [*names, *("" for _ in range(count - len(names)))]
