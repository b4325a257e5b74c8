"""Integers that a graph computes from shapes: dimensions, what is computed from them, and how they compare.

ONNX's own inference follows few of the operators that exporters write between a Shape and a Reshape or an Expand. Here
a scalar is an int, a vector is a tuple, and None is a dimension that is unknown. With an input x of shape [n, 8]:

    s = Shape(x); d = Gather(s, 1); t = Concat(d, [4]); m = Equal(t, [8, -1])

s is (None, 8), d is 8, t is (8, 4), and m is (1, 0). Floats are left out, because their results depend on rounding.
"""

from __future__ import annotations

import math
import operator
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from onnx import AttributeProto, TensorProto

from mxtools.files.weights import WeightStore
from mxtools.graph.index import NOWHERE, Graph
from mxtools.graph.shapes import Shapes, TensorShape

Size: TypeAlias = int | None
Integers: TypeAlias = Size | tuple[Size, ...]
Attributes: TypeAlias = Mapping[str, Integers]
Follow: TypeAlias = Callable[[Sequence[Integers], Attributes], Integers]

LONGEST = 64
"""The most elements of a value that is followed: longer ones are no shapes, nor parts of one."""
_LARGEST = 1 << 31
"""What is computed stays below it: no dimension is as large, and no integer type overflows."""
_LETTERS: dict[int, str] = {TensorProto.INT64: "q", TensorProto.INT32: "i", TensorProto.BOOL: "?"}
"""The element types that are followed, as `struct` calls them."""


def integers(graph: Graph, weights: WeightStore, shapes: Shapes) -> dict[int, Integers]:
    """Return what the nodes of the main graph compute of integers and booleans, by value, as far as it is known.

    A vector may hold dimensions that are unknown.
    """
    found: dict[int, Integers] = {}

    def read(name: str) -> Integers:
        """Return what an input of a node holds, () if the node has no such input; raises KeyError if it is unknown."""
        value = graph.by_name[name] if name else NOWHERE
        if value in graph.inputs:  # its initializer is only a default
            raise KeyError(name)
        return () if not name else found[value] if value in found else _held(graph.initializers[value], weights)

    for node in graph.main:
        proto, operator_name = graph.nodes[node], graph.nodes[node].op_type
        if operator_name not in _FOLLOWED or not graph.operators[node].is_named(operator_name):
            continue
        try:
            attributes = {attribute.name: _attribute(attribute, weights) for attribute in proto.attribute}
            if operator_name in _OF_SHAPES:
                given = [_dims(shapes[graph.by_name[proto.input[0]]])]
            else:
                given = [read(name) for name in proto.input]
            result = _FOLLOWED[operator_name](given, attributes)
        except (ArithmeticError, LookupError, TypeError, ValueError, struct.error):
            continue  # it reads or computes something else than scalars and vectors of integers
        if _is_small(result):
            found[graph.writes[node][0]] = result
    return found


def _dims(shape: TensorShape | None) -> Integers:
    """Return the dimensions of a value; raises ValueError if not even their number is known."""
    if shape is None or shape.dims is None:
        raise ValueError
    return shape.dims


def _attribute(attribute: AttributeProto, weights: WeightStore) -> Integers:
    """Return what an attribute holds; raises ValueError if that is no integer and no vector of integers."""
    if attribute.type == AttributeProto.TENSOR:
        return _held(attribute.t, weights)
    if attribute.type == AttributeProto.INTS:
        return tuple(attribute.ints)
    if attribute.type != AttributeProto.INT:
        raise ValueError
    return int(attribute.i)


def _held(tensor: TensorProto, weights: WeightStore) -> Integers:
    """Return what a stored tensor holds; raises ValueError if that is no short vector of integers."""
    if tensor.data_type not in _LETTERS or len(tensor.dims) > 1 or math.prod(tensor.dims) > LONGEST:
        raise ValueError
    tensor = weights.inline(tensor)
    held = tuple(tensor.int64_data or tensor.int32_data)
    if tensor.raw_data:  # numpy would do the same, but takes longer to import than all of this takes
        held = struct.unpack(f"<{math.prod(tensor.dims)}{_LETTERS[tensor.data_type]}", tensor.raw_data)
    return tuple(map(int, held)) if tensor.dims else int(held[0])


def _is_small(value: Integers) -> bool:
    elements = value if isinstance(value, tuple) else (value,)
    return len(elements) <= LONGEST and all(x is None or abs(x) < _LARGEST for x in elements)


def _vector(value: Integers) -> tuple[Size, ...]:
    """Return a vector; raises TypeError if it is a scalar."""
    if not isinstance(value, tuple):
        raise TypeError
    return value


def _scalar(value: Integers) -> int:
    """Return a known scalar; raises TypeError if it is none."""
    if not isinstance(value, int):
        raise TypeError
    return value


def _whole(value: Integers) -> tuple[int, ...]:
    """Return a vector of known elements; raises TypeError if it is none."""
    known = tuple(x for x in _vector(value) if x is not None)
    if len(known) < len(_vector(value)):
        raise TypeError
    return known


def _each(function: Callable[..., int]) -> Follow:
    """Follow an operator that computes each element from elements of its inputs, with broadcasting."""

    def element(*given: Size) -> Size:
        """Compute an element, which is unknown if one that it needs is unknown."""
        known = [x for x in given if x is not None]
        return int(function(*known)) if len(known) == len(given) else None

    def follow(given: Sequence[Integers], _: Attributes) -> Integers:
        """Compute a vector, or a scalar from scalars."""
        lengths = {len(x) for x in given if isinstance(x, tuple)}
        if not lengths:
            return element(*(x for x in given if not isinstance(x, tuple)))
        length = max(lengths) if 0 not in lengths else 0
        if lengths - {1, length}:
            raise ValueError
        columns = [(x if len(x) == length else x * length) if isinstance(x, tuple) else (x,) * length for x in given]
        return tuple(element(*row) for row in zip(*columns, strict=True))

    return follow


def _divided(one: int, other: int) -> int:
    """Divide as ONNX does: towards zero."""
    return -(-one // other) if (one < 0) != (other < 0) else one // other


def _reduced(function: Callable[[tuple[int, ...]], int]) -> Follow:
    def follow(given: Sequence[Integers], attributes: Attributes) -> Integers:
        """Compute one number of a vector."""
        if (len(given) > 1 and given[1] not in ((), (0,), (-1,))) or attributes.get("noop_with_empty_axes"):
            raise ValueError
        result = function(_whole(given[0]))
        return (result,) if attributes.get("keepdims", 1) else result

    return follow


def _constant(_: Sequence[Integers], attributes: Attributes) -> Integers:
    (held,) = attributes.values()  # `value`, `value_int` or `value_ints`
    return held


def _shape(given: Sequence[Integers], attributes: Attributes) -> Integers:
    end = _scalar(attributes["end"]) if "end" in attributes else None
    return _vector(given[0])[_scalar(attributes.get("start", 0)) : end]


def _filled(given: Sequence[Integers], attributes: Attributes) -> Integers:
    """Follow ConstantOfShape."""
    filling, lengths = _whole(attributes["value"]), _whole(given[0])  # without `value` it makes floats
    if len(lengths) > 1 or max(lengths, default=0) > LONGEST:
        raise ValueError
    return filling * lengths[0] if lengths else filling[0]


def _gathered(given: Sequence[Integers], attributes: Attributes) -> Integers:
    data, index = _vector(given[0]), given[1]
    if attributes.get("axis", 0) not in (0, -1):
        raise ValueError
    return tuple(data[i] for i in _whole(index)) if isinstance(index, tuple) else data[_scalar(index)]


def _concatenated(given: Sequence[Integers], _: Attributes) -> Integers:
    return tuple(x for vector in given for x in _vector(vector))


def _sliced(given: Sequence[Integers], attributes: Attributes) -> Integers:
    if len(given) == 1:  # until version 9
        given = [given[0], attributes["starts"], attributes["ends"]]
    data, (start,), (end,) = _vector(given[0]), _whole(given[1]), _whole(given[2])
    (step,) = _whole(given[4]) if len(given) > 4 and given[4] != () else (1,)
    return data[start:end:step]


def _unsqueezed(given: Sequence[Integers], attributes: Attributes) -> Integers:
    if isinstance(given[0], tuple):
        raise TypeError
    if (given[1] if len(given) > 1 else attributes["axes"]) not in ((0,), (-1,)):
        raise ValueError
    return (given[0],)


def _squeezed(given: Sequence[Integers], _: Attributes) -> Integers:
    (only,) = _vector(given[0])
    return only


def _reshaped(given: Sequence[Integers], attributes: Attributes) -> Integers:
    data, shape = given[0] if isinstance(given[0], tuple) else (given[0],), _whole(given[1])
    if shape not in ((), (-1,), (len(data),)):
        raise ValueError
    return data if shape else _squeezed([data], attributes)


def _cast(given: Sequence[Integers], attributes: Attributes) -> Integers:
    if attributes["to"] not in _LETTERS:
        raise ValueError
    return _each(bool)(given, attributes) if attributes["to"] == TensorProto.BOOL else given[0]


_OF_SHAPES = frozenset({"Shape", "Size"})
"""Operators that look at nothing of their input but its shape."""

_FOLLOWED: dict[str, Follow] = {
    "Abs": _each(abs),
    "Add": _each(operator.add),
    "And": _each(operator.and_),
    "Cast": _cast,
    "Concat": _concatenated,
    "Constant": _constant,
    "ConstantOfShape": _filled,
    "Div": _each(_divided),
    "Equal": _each(operator.eq),
    "Gather": _gathered,
    "Greater": _each(operator.gt),
    "GreaterOrEqual": _each(operator.ge),
    "Identity": lambda given, _: given[0],
    "Less": _each(operator.lt),
    "LessOrEqual": _each(operator.le),
    "Max": _each(lambda *given: max(given)),
    "Min": _each(lambda *given: min(given)),
    "Mul": _each(operator.mul),
    "Neg": _each(operator.neg),
    "Not": _each(operator.not_),
    "Or": _each(operator.or_),
    "ReduceMax": _reduced(max),
    "ReduceMin": _reduced(min),
    "ReduceProd": _reduced(math.prod),
    "ReduceSum": _reduced(sum),
    "Reshape": _reshaped,
    "Shape": _shape,
    "Size": lambda given, _: math.prod(_whole(given[0])),
    "Slice": _sliced,
    "Squeeze": _squeezed,
    "Sub": _each(operator.sub),
    "Unsqueeze": _unsqueezed,
    "Where": _each(lambda condition, one, other: one if condition else other),
}
