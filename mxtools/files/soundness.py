"""The line that every model crosses once, where it is parsed: code behind it may rely on what is checked here.

Protobuf accepts anything that has the form of a message. The following faults pass it too, and are refused here, with a
message that says what is wrong and where: text that is not UTF-8, element types that ONNX does not have, data that do
not match the dimensions, negative dimensions of stored tensors, impossible versions, attributes without the tensor or
graph that their type promises, nodes without an operator, functions that call themselves, and functions that would
expand without limit.

Some faults are not checked, because commands are there to find and mend them: operators that do not exist, names that
nothing makes, types that do not agree, the order of nodes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache
from graphlib import CycleError, TopologicalSorter
from typing import Any

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message
from onnx import (
    AttributeProto,
    FunctionProto,
    GraphProto,
    ModelProto,
    NodeProto,
    SparseTensorProto,
    TensorProto,
    TypeProto,
    ValueInfoProto,
)

from mxtools.errors import InputError
from mxtools.files import wire
from mxtools.files.elements import ELEMENTS, PLAIN, entries_of, size_of_elements
from mxtools.files.limits import EXPANDED_NODES

_MEND = "fix the program that made the file, or export again"
_LAST_VERSION = 2**31 - 1
"""ONNX and ONNX Runtime store versions in 32 bits."""

_PROMISED = {
    AttributeProto.TENSOR: "t",
    AttributeProto.GRAPH: "g",
    AttributeProto.SPARSE_TENSOR: "sparse_tensor",
    AttributeProto.TYPE_PROTO: "tp",
}
"""The field that an attribute of a type needs; numbers and texts have a value even if their field is missing."""


class UnsoundError(ValueError):
    """What is wrong with a model, and where."""


def require_sound(proto: ModelProto, name: str, skeleton: bytes | None = None) -> None:
    """Raise InputError if a model is not as the rest of the code expects; `skeleton` has the message's bytes."""
    try:
        _check_text(proto, skeleton)
        _check_versions(proto)
        _check_graph(proto.graph, "the graph")
        for function in proto.functions:
            _check_function(function)
        for training in proto.training_info:
            _check_graph(training.initialization, "the training's initialisation")
            _check_graph(training.algorithm, "the training's algorithm")
        if proto.functions:
            _check_calls(proto)
    except UnsoundError as fault:
        raise InputError(f"{name} is not a valid ONNX model: {fault}", _MEND) from None


_THIRD_SYNTAX = b"\x62\x06proto3"
"""The field `syntax` in a serialised description of messages; if a field occurs twice, the last one counts."""


@cache
def _strict() -> Any:  # noqa: ANN401 - a class that protobuf makes
    """Return a class of messages like ModelProto, but with a parser that refuses text that is not UTF-8.

    ONNX's own class uses protobuf's syntax `proto2`, which does not check texts: text that is not UTF-8 comes out as
    bytes, in whichever field somebody reads. The syntax `proto3` has the same bytes on the wire, and checks them.
    """
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(ModelProto.DESCRIPTOR.file.serialized_pb + _THIRD_SYNTAX)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(ModelProto.DESCRIPTOR.full_name))


def _check_text(proto: ModelProto, skeleton: bytes | None) -> None:
    try:
        _strict().FromString(proto.SerializeToString() if skeleton is None else skeleton)
        return
    except (DecodeError, ValueError):  # ValueError: more than 2 GiB cannot be serialised
        place = _first_no_text(proto)
    if place:
        raise UnsoundError(f"{place} is not UTF-8")


def _first_no_text(message: Message) -> str | None:
    """Return the place of the first text in a message that is not UTF-8, as `graph.node[3].name`."""
    for field, content in message.ListFields():
        is_text = field.type == field.TYPE_STRING
        if not is_text and field.type != field.TYPE_MESSAGE:
            continue
        is_list = not isinstance(content, Message | str | bytes)
        for number, item in enumerate(content if is_list else (content,)):
            here = f"{field.name}[{number}]" if is_list else field.name
            if is_text and isinstance(item, bytes):
                return here
            if not is_text and (inner := _first_no_text(item)) is not None:
                return f"{here}.{inner}"
    return None


def _check_versions(proto: ModelProto) -> None:
    if not 1 <= proto.ir_version <= _LAST_VERSION:
        raise UnsoundError(f"IR version {proto.ir_version}")
    for holder in (proto, *proto.functions):
        for entry in holder.opset_import:
            if not 0 <= entry.version <= _LAST_VERSION:
                raise UnsoundError(f"version {entry.version} of the operators of {entry.domain or 'ai.onnx'!r}")


def _check_graph(graph: GraphProto, where: str) -> None:
    for tensor in graph.initializer:
        _check_tensor(tensor, where)
    for sparse in graph.sparse_initializer:
        _check_sparse(sparse, where)
    for infos in (graph.input, graph.output, graph.value_info):
        _check_infos(infos, where)
    _check_nodes(graph.node, where)


def _check_function(function: FunctionProto) -> None:
    where = f"function {function.name!r}"
    if not function.name:
        raise UnsoundError("a function without a name")
    for attribute in function.attribute_proto:
        _check_attribute(attribute, where)
    _check_infos(function.value_info, where)
    _check_nodes(function.node, where)


def _check_nodes(nodes: Iterable[NodeProto], where: str) -> None:
    """Check the nodes of one graph; written for speed, since every command runs it for every node."""
    plain = PLAIN
    for node in nodes:
        if not node.op_type:
            raise UnsoundError(f"node {node.name!r} of {where} has no operator")
        for attribute in node.attribute:
            if attribute.type not in plain:
                _check_attribute(attribute, f"{node.op_type} {node.name!r}")


def _check_attribute(attribute: AttributeProto, where: str) -> None:
    """Check that an attribute has what its type promises, and that this is sound."""
    where = f"attribute {attribute.name!r} of {where}"
    promised = _PROMISED.get(attribute.type)
    if promised and not attribute.HasField(promised) and not attribute.ref_attr_name:
        raise UnsoundError(
            f"{where} has no {AttributeProto.AttributeType.Name(attribute.type).lower().replace('_', ' ')}"
        )
    if not attribute.type and not attribute.ref_attr_name and _holds_message(attribute):
        raise UnsoundError(f"{where} has a type that ONNX does not have")
    for field, content in attribute.ListFields():
        if check := _CHECKS.get(field.name):
            for message in (content,) if isinstance(content, Message) else content:
                check(message, where)


def _holds_message(attribute: AttributeProto) -> bool:
    """Return whether an attribute has a tensor or graph; nobody would find it if the type does not say so."""
    lists = (attribute.tensors, attribute.graphs, attribute.sparse_tensors)
    return any(map(attribute.HasField, ("t", "g", "sparse_tensor"))) or any(map(len, lists))


def _check_infos(infos: Iterable[ValueInfoProto], where: str) -> None:
    elements = ELEMENTS
    for info in infos:
        type_ = info.type
        if not (type_.HasField("tensor_type") and type_.tensor_type.elem_type in elements):
            _check_type(type_, f"{info.name!r} of {where}")


def _check_type(type_: TypeProto, where: str) -> None:
    """Check the element types in a type, and in the types that it consists of; 0 is an unknown one."""
    for kind, content in type_.ListFields():
        if kind.name in ("tensor_type", "sparse_tensor_type") and content.elem_type:
            _require_element(content.elem_type, where)
        elif kind.name in ("sequence_type", "optional_type"):
            _check_type(content.elem_type, where)
        elif kind.name == "map_type":
            _require_element(content.key_type, where)
            _check_type(content.value_type, where)


def _require_element(element: int, where: str) -> None:
    if element not in ELEMENTS:
        raise UnsoundError(f"{where} has element type {element}, which ONNX does not have")


def _check_sparse(sparse: SparseTensorProto, where: str) -> None:
    if any(dim < 0 for dim in sparse.dims):
        raise UnsoundError(f"sparse tensor {sparse.values.name!r} of {where} has dimensions {list(sparse.dims)[:8]}")
    _check_tensor(sparse.values, where)
    _check_tensor(sparse.indices, where)


def _check_tensor(tensor: TensorProto, where: str) -> None:
    """Check that a tensor has an element type, dimensions, and data for exactly as many elements."""
    element, dims = tensor.data_type, tensor.dims[:]
    if element not in ELEMENTS:
        _require_element(element, f"tensor {tensor.name!r} of {where}")
    if tensor.HasField("segment"):
        raise UnsoundError(f"tensor {tensor.name!r} of {where} is a segment of a tensor, which no library reads")
    if dims and min(dims) < 0:
        raise UnsoundError(f"tensor {tensor.name!r} of {where} has dimensions {dims[:8]}")
    count = math.prod(dims)
    if tensor.data_location == TensorProto.EXTERNAL:
        reference = tensor.external_data[0].value if len(tensor.external_data) == 1 else ""
        if not reference.endswith(wire.REFERENCE.decode()):
            return  # it is in a file beside the model, which is checked when its place is asked for
        fits = wire.parse_reference(reference)[1] == size_of_elements(element, count)
    elif tensor.HasField("raw_data"):
        fits = element != TensorProto.STRING and len(tensor.raw_data) == size_of_elements(element, count)
    else:
        found, wanted = entries_of(tensor, count)
        fits = found == wanted
    if not fits:
        raise UnsoundError(
            f"tensor {tensor.name!r} of {where} has dimensions {dims[:8]}, and its data do not match them"
        )


_CHECKS: dict[str, Callable[[Any, str], None]] = {
    "t": _check_tensor,
    "tensors": _check_tensor,
    "sparse_tensor": _check_sparse,
    "sparse_tensors": _check_sparse,
    "g": _check_graph,
    "graphs": _check_graph,
    "tp": _check_type,
    "type_protos": _check_type,
}
"""What checks the messages in a field of an attribute."""


def _check_calls(proto: ModelProto) -> None:
    """Check that no function calls itself, and that calls stand for no more nodes than the limit allows.

    Each function is visited once. Its nodes count together with those of the functions that they call. For example, f
    has 2 nodes and calls g twice, and g has 10 nodes: f counts 22.
    """
    calls = {_key(f.domain, f.name, f.overload): _called(f.node) for f in proto.functions}
    if len(calls) < len(proto.functions):
        raise UnsoundError("two functions have the same domain and name")
    try:
        order = list(TopologicalSorter({f: called.keys() & calls.keys() for f, called in calls.items()}).static_order())
    except CycleError as error:
        raise UnsoundError(f"function {error.args[1][0][1]!r} calls itself, directly or through others") from None
    nodes: dict[_Key, int] = {}
    for key in order:
        nodes[key] = _expanded(calls[key], nodes)
    EXPANDED_NODES.check(_expanded(_called(proto.graph.node), nodes), "the model with its functions expanded")


_Key = tuple[str, str, str]


def _key(domain: str, name: str, overload: str) -> _Key:
    return "" if domain == "ai.onnx" else domain, name, overload


def _called(nodes: Iterable[NodeProto]) -> Counter[_Key]:
    """Return how often nodes, and the nodes in their bodies, use each operator."""
    found: Counter[_Key] = Counter()
    for node in nodes:
        found[_key(node.domain, node.op_type, node.overload)] += 1
        for attribute in node.attribute:
            if attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS):
                for graph in (attribute.g, *attribute.graphs):
                    found.update(_called(graph.node))
    return found


def _expanded(called: Counter[_Key], nodes: dict[_Key, int]) -> int:
    return sum(count * (1 + nodes.get(key, 0)) for key, count in called.items())
