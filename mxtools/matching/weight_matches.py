"""Which weights of an earlier model a model's weights are, by their content.

    earlier   x ─┬─ MatMul(q)           now   x ─ MatMul(qkv) ─ Split
                 ├─ MatMul(k)
                 └─ MatMul(v)           qkv is [q | k | v], 4x12, and no name or hash of the three is left

A tool that renames a weight keeps its elements: unchanged, in another type, transposed, side by side with others,
quantised, or packed two to a byte. The obvious way is to compare the bytes or their hash, but this finds only the first
case. So elements are compared, up to rounding, at corresponding places: as the places are after a transposition, or
within each slice along each axis. Quantised weights have lost their scale, so the correlation counts instead.

Of a large weight, only some elements are compared (`SAMPLE_SIZE`), the same ones for all weights of one shape, so the
time does not grow with the size.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from math import prod

import onnx
from onnx import TensorProto

from mxtools.files.weights import WeightStore
from mxtools.graph.index import Graph
from mxtools.graph.shapes import Array, stored_shape

LEAST_ELEMENTS = 8
"""Elements that a weight needs to be recognised by its content: many smaller ones, such as scales, are alike."""
LEAST_QUANTISED_ELEMENTS = 64
"""The same for a quantised weight: the correlation of few numbers is high by chance."""
SAMPLE_SIZE = 4096
"""Elements of one weight that are compared: so many are never equal by chance."""
LARGEST_ROUNDING = 0.02
"""Largest difference of an element that still counts as rounding to another type, in standard deviations of the weight.

bfloat16 rounds by 1 in 256, so it changes an element of 5 deviations by at most 5 / 256 of a deviation.
"""
LEAST_CORRELATION = 0.8
"""Least correlation of numbers with a weight at which they count as this weight, quantised.

For normally distributed weights in 4 bits it is 0.94 and more with one scale for all, and 0.84 with a scale for each
row if the rows differ by half; for unrelated weights it is near 0.
"""
MOST_ELEMENTS_OF_CONSTANTS = 64
"""Elements up to which constants are compared one by one."""
CONSTANT_TOLERANCE = 5e-3
"""Relative difference at which a constant can still be the same number in another type: bfloat16 rounds by 1 in 256."""
EQUAL_CORRELATION = 1e-6
"""Difference of correlations that is only rounding: several weights that match so nearly as well are equal."""

_Dims = tuple[int, ...]


@dataclass(frozen=True)
class _Group:
    """The weights of one shape, with some elements of each: the places of these elements, and a row for each weight."""

    dims: _Dims
    values: list[int]
    places: tuple[Array, ...]
    rows: Array

    def equal(self, elements: Array) -> list[int]:
        """Return the weights whose elements at the places equal these, up to rounding."""
        import numpy as np

        with np.errstate(all="ignore"):  # masks contain infinities, or numbers near them
            deviation = self.rows.std(axis=1)
            farthest = np.abs(self.rows - elements.astype(np.float32)).max(axis=1)
        apart = zip(self.values, farthest, deviation, strict=True)
        return [value for value, far, unit in apart if unit > 0 and far < LARGEST_ROUNDING * unit]

    def correlating(self, elements: Array) -> list[tuple[float, int]]:
        """Return the weights whose elements at the places correlate with these, as (correlation, weight)."""
        import numpy as np

        a, b = (x - x.mean(axis=-1, keepdims=True) for x in (self.rows, elements))
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b)
        found = np.divide(a @ b, norms, out=np.zeros(len(a)), where=norms > 0)
        return [(float(r), v) for v, r in zip(self.values, found, strict=True) if r > LEAST_CORRELATION]

    def places_in(self, shape: Sequence[int]) -> Iterator[Array]:
        """Yield the places in a flat array of this shape, for each way to reshape or transpose the weight."""
        import numpy as np

        wanted = [d for d in shape if d != 1]
        for order in permutations(range(len(self.dims))):
            dims = [self.dims[axis] for axis in order]
            if list(order) in (sorted(order), sorted(order)[::-1]) or [d for d in dims if d != 1] == wanted:
                yield np.ravel_multi_index([self.places[axis] for axis in order], dims)


class WeightMatches:
    """Finds the earlier weights that a weight equals or consists of."""

    def __init__(self, earlier: Graph, weights: WeightStore) -> None:
        """Take the earlier graph's weights; their elements are read when they are needed for a comparison."""
        self._earlier, self._weights = earlier, weights
        self._by_dims: dict[_Dims, list[int]] = defaultdict(list)
        for value, tensor in earlier.initializers.items():
            if prod(tensor.dims) >= LEAST_ELEMENTS and stored_shape(tensor).kind == "f":
                self._by_dims[tuple(tensor.dims)].append(value)
        self._groups: dict[_Dims, _Group] = {}

    def find(self, tensor: TensorProto, weights: WeightStore) -> list[int]:
        """Return the earlier weights that a tensor equals (several if they are equal themselves), or consists of."""
        if prod(tensor.dims) < LEAST_ELEMENTS or stored_shape(tensor).kind not in "fi":
            return []
        array = _elements(weights, tensor)
        if stored_shape(tensor).kind == "f":
            return self._equal(array) or self._concatenated(array)
        return self._quantised(array) or self._quantised(_unpacked(array))

    def is_equal(self, tensor: TensorProto, weights: WeightStore, value: int) -> bool:
        """Return whether a tensor equals a certain earlier one with few elements, perhaps in another type."""
        import numpy as np

        other = self._earlier.initializers.get(value)
        if other is None or tensor.dims != other.dims or prod(tensor.dims) > MOST_ELEMENTS_OF_CONSTANTS:
            return False
        mine, its = stored_shape(tensor).kind, stored_shape(other).kind
        if mine != its or mine not in "fib":
            return False
        pair = (_elements(weights, tensor), _elements(self._weights, other))
        a, b = (array.astype(np.float64) for array in pair)
        return bool(np.allclose(a, b, rtol=CONSTANT_TOLERANCE if mine == "f" else 0, atol=0, equal_nan=True))

    def _equal(self, array: Array) -> list[int]:
        flat = array.ravel()
        return [v for g in self._of_size(array.size) for at in g.places_in(array.shape) for v in g.equal(flat[at])]

    def _quantised(self, array: Array) -> list[int]:
        import numpy as np

        if array.size < LEAST_QUANTISED_ELEMENTS:
            return []
        flat, groups = array.ravel().astype(np.float32), self._of_size(array.size)
        found = [pair for g in groups for at in g.places_in(array.shape) for pair in g.correlating(flat[at])]
        return [value for correlation, value in found if correlation > max(found)[0] - EQUAL_CORRELATION]

    def _concatenated(self, array: Array) -> list[int]:
        """Return the weights of which an array consists, side by side along one axis; none if a piece is unknown."""
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
        import numpy as np

        if dims not in self._groups:
            values, count = self._by_dims[dims], prod(dims)
            chosen = (
                np.unique(np.random.default_rng(count).integers(0, count, SAMPLE_SIZE))
                if count > SAMPLE_SIZE
                else np.arange(count)
            )
            places = tuple(np.unravel_index(chosen, dims))
            tensors = (self._earlier.initializers[value] for value in values)
            rows = np.stack([_elements(self._weights, tensor)[places].astype(np.float32) for tensor in tensors])
            self._groups[dims] = _Group(dims, values, places, rows)
        return self._groups[dims]


def _at(group: _Group, array: Array, axis: int, start: int) -> list[int]:
    """Return the weights of a group that begin at a place on an axis of an array."""
    if start + group.dims[axis] > array.shape[axis]:
        return []
    return group.equal(array[tuple(p + start if i == axis else p for i, p in enumerate(group.places))])


def _is_slice(dims: _Dims, shape: _Dims, axis: int) -> bool:
    """Return whether arrays with these dimensions can lie side by side along an axis in an array of a shape."""
    return len(dims) == len(shape) and all(
        a == b or (i == axis and a < b) for i, (a, b) in enumerate(zip(dims, shape, strict=True))
    )


def _elements(weights: WeightStore, tensor: TensorProto) -> Array:
    """Return a tensor's elements, without a copy if that is possible."""
    import numpy as np

    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
    data = weights.data(tensor)
    if len(data) != dtype.itemsize * prod(tensor.dims):  # several to a byte
        return weights.array(tensor)
    return np.frombuffer(data, dtype).reshape(tensor.dims)


def _unpacked(array: Array) -> Array:
    """Return the numbers of 4 bits in an array of bytes, the lower one first; other arrays unchanged."""
    import numpy as np

    if array.dtype != np.uint8:
        return array
    return np.stack([array & 15, array >> 4], axis=-1).reshape(-1)
