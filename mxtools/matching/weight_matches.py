"""Which weights of an earlier model the weights of a model are, by content.

A tool that gives a weight another name keeps its elements: as they are, in another type, transposed, concatenated with
others, quantised, or packed two to a byte. Some of the elements are compared, so that large weights cost no more.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from math import prod

import numpy as np
from onnx import TensorProto, helper

from mxtools.files.weights import WeightStore
from mxtools.graph.index import Graph
from mxtools.graph.shapes import Array, of_tensor

LEAST = 8
"""Elements that a weight must have to be told from others by its content."""
LEAST_QUANTISED = 64
"""The same for one that was quantised."""
SAMPLE = 4096
"""Elements that are compared of one weight."""
CLOSE = 0.02
"""Largest difference of an element in another type, in standard deviations of all: bfloat16 rounds to 1 in 256."""
LIKE = 0.8
"""Correlation with a weight from which numbers are this weight, quantised: of unrelated ones it is near 0."""
SMALL = 64
"""Elements up to which constants are compared one by one."""
ROUNDED = 5e-3
"""Relative difference of a number in another type."""
SAME = 1e-6
"""Difference of correlations up to which weights are equally like numbers, because they are equal."""

_Dims = tuple[int, ...]


@dataclass(frozen=True)
class _Group:
    """The weights of one shape, with some elements of each: where these are, and a row for each weight."""

    dims: _Dims
    values: list[int]
    places: tuple[Array, ...]
    rows: Array

    def equal(self, elements: Array) -> list[int]:
        """Give the weights that have some elements at the places."""
        with np.errstate(all="ignore"):  # masks hold infinities, and numbers near them
            deviation = self.rows.std(axis=1)
            farthest = np.abs(self.rows - elements.astype(np.float32)).max(axis=1)
        return [
            v for v, far, unit in zip(self.values, farthest, deviation, strict=True) if unit > 0 and far < CLOSE * unit
        ]

    def alike(self, elements: Array) -> list[tuple[float, int]]:
        """Give the weights that correlate with some numbers at the places, and how much."""
        a, b = (x - x.mean(axis=-1, keepdims=True) for x in (self.rows, elements))
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b)
        found = np.divide(a @ b, norms, out=np.zeros(len(a)), where=norms > 0)
        return [(float(r), v) for v, r in zip(self.values, found, strict=True) if r > LIKE]

    def orders(self, shape: Sequence[int]) -> Iterator[Array]:
        """Give where the places are in an array that has the elements reshaped, or the dimensions in another order."""
        wanted = [d for d in shape if d != 1]
        for order in permutations(range(len(self.dims))):
            dims = [self.dims[axis] for axis in order]
            if list(order) in (sorted(order), sorted(order)[::-1]) or [d for d in dims if d != 1] == wanted:
                yield np.ravel_multi_index([self.places[axis] for axis in order], dims)


class WeightMatches:
    """Finds which weights of an earlier graph a weight is, or is made of."""

    def __init__(self, earlier: Graph, weights: WeightStore) -> None:
        """Take the earlier graph's weights; their elements are read when a weight may be one of them."""
        self._earlier, self._weights = earlier, weights
        self._by_dims: dict[_Dims, list[int]] = defaultdict(list)
        for value, tensor in earlier.initializers.items():
            if prod(tensor.dims) >= LEAST and of_tensor(tensor).kind == "f":
                self._by_dims[tuple(tensor.dims)].append(value)
        self._groups: dict[_Dims, _Group] = {}

    def find(self, tensor: TensorProto, weights: WeightStore) -> list[int]:
        """Give the earlier weights that a tensor is, several where they are equal, or those that it is made of."""
        if prod(tensor.dims) < LEAST or of_tensor(tensor).kind not in "fi":
            return []
        array = _elements(weights, tensor)
        if of_tensor(tensor).kind == "f":
            return self._equal(array) or self._concatenated(array)
        return self._quantised(array) or self._quantised(_unpacked(array))

    def is_equal(self, tensor: TensorProto, weights: WeightStore, value: int) -> bool:
        """Tell whether a tensor is an earlier one of few elements, in another type maybe."""
        other = self._earlier.initializers.get(value)
        if other is None or tensor.dims != other.dims or prod(tensor.dims) > SMALL:
            return False
        mine, its = of_tensor(tensor).kind, of_tensor(other).kind
        if mine != its or mine not in "fib":
            return False
        pair = (_elements(weights, tensor), _elements(self._weights, other))
        a, b = (array.astype(np.float64) for array in pair)
        return bool(np.allclose(a, b, rtol=ROUNDED if mine == "f" else 0, atol=0, equal_nan=True))

    def _equal(self, array: Array) -> list[int]:
        flat = array.ravel()
        return [v for g in self._of_size(array.size) for at in g.orders(array.shape) for v in g.equal(flat[at])]

    def _quantised(self, array: Array) -> list[int]:
        if array.size < LEAST_QUANTISED:
            return []
        flat = array.ravel().astype(np.float32)
        found = [v for g in self._of_size(array.size) for at in g.orders(array.shape) for v in g.alike(flat[at])]
        return [value for likeness, value in found if likeness > max(found)[0] - SAME]

    def _concatenated(self, array: Array) -> list[int]:
        """Give the weights that an array consists of, side by side."""
        for axis in range(array.ndim):
            groups = [g for g in map(self._group, self._by_dims) if _is_slice(g.dims, array.shape, axis)]
            found, at = list[int](), 0
            while at < array.shape[axis]:
                piece = next(((v, g.dims[axis]) for g in groups for v in _at(g, array, axis, at)), None)
                if piece is None:
                    break
                found.append(piece[0])
                at += piece[1]
            if at == array.shape[axis] and found:
                return found
        return []

    def _of_size(self, size: int) -> list[_Group]:
        return [self._group(dims) for dims in self._by_dims if prod(dims) == size]

    def _group(self, dims: _Dims) -> _Group:
        if dims not in self._groups:
            values, count = self._by_dims[dims], prod(dims)
            chosen = (
                np.unique(np.random.default_rng(count).integers(0, count, SAMPLE))
                if count > SAMPLE
                else np.arange(count)
            )
            places = tuple(np.unravel_index(chosen, dims))
            tensors = (self._earlier.initializers[value] for value in values)
            rows = np.stack([_elements(self._weights, tensor)[places].astype(np.float32) for tensor in tensors])
            self._groups[dims] = _Group(dims, values, places, rows)
        return self._groups[dims]


def _at(group: _Group, array: Array, axis: int, start: int) -> list[int]:
    """Give the weights of a group that stand in an array from a place of an axis on."""
    if start + group.dims[axis] > array.shape[axis]:
        return []
    return group.equal(array[tuple(p + start if i == axis else p for i, p in enumerate(group.places))])


def _is_slice(dims: _Dims, shape: _Dims, axis: int) -> bool:
    """Tell whether arrays of some dimensions can be a part of one of a shape along an axis."""
    return len(dims) == len(shape) and all(
        a == b or (i == axis and a < b) for i, (a, b) in enumerate(zip(dims, shape, strict=True))
    )


def _elements(weights: WeightStore, tensor: TensorProto) -> Array:
    """Give a tensor's values, without a copy where that is possible."""
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
    data = weights.data(tensor)
    if len(data) != dtype.itemsize * prod(tensor.dims):  # several to a byte
        return weights.array(tensor)
    return np.frombuffer(data, dtype).reshape(tensor.dims)


def _unpacked(array: Array) -> Array:
    """Give the numbers of 4 bits that bytes hold, the lower one first."""
    if array.dtype != np.uint8:
        return array
    return np.stack([array & 15, array >> 4], axis=-1).reshape(-1)
