"""Which weights of an earlier model the weights of a model are, by content.

    earlier   x ─┬─ MatMul(q)           now   x ─ MatMul(qkv) ─ Split
                 ├─ MatMul(k)
                 └─ MatMul(v)           qkv is [q | k | v], 4x12, and no name or hash of the three is left

A tool that gives a weight another name keeps its elements: as they are, in another type, transposed, side by side with
others, quantised, or packed two to a byte. The obvious way, to compare the bytes or their hash, only finds the first
case. So elements are compared, up to rounding, at the same places of both: as the places are after a transposition, or
within each slice along each axis. For quantised weights, which lost their scale, it is the correlation that counts.

Of large weights only some elements are compared (`SAMPLE_SIZE`), the same of all weights of one shape, so that the time
does not grow with their size.
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
"""Elements that a weight must have to be told from others by its content: of fewer, such as scales, many are alike."""
LEAST_QUANTISED_ELEMENTS = 64
"""The same for a quantised weight: the correlation of few numbers is high by chance."""
SAMPLE_SIZE = 4096
"""Elements of one weight that are compared: by chance so many are never equal."""
LARGEST_ROUNDING = 0.02
"""Largest difference of an element, in standard deviations of all, of a weight in another type.

bfloat16 rounds by 1 in 256, so it changes an element of 5 deviations by at most 5 / 256 of one.
"""
LEAST_CORRELATION = 0.8
"""Correlation with a weight from which on numbers are this weight, quantised.

For normally distributed weights in 4 bits it is 0.94 and more with one scale for all, and 0.84 with a scale for each
row where the rows differ by half; for unrelated weights it is near 0.
"""
MOST_ELEMENTS_OF_CONSTANTS = 64
"""Elements up to which constants are compared one by one."""
CONSTANT_TOLERANCE = 5e-3
"""Relative difference up to which a number of a constant is one in another type: bfloat16 rounds by 1 in 256."""
EQUAL_CORRELATION = 1e-6
"""Difference of correlations up to which several weights are as good: they are equal, so the rest is rounding."""

_Dims = tuple[int, ...]


@dataclass(frozen=True)
class _Group:
    """The weights of one shape, with some elements of each: where these are, and a row for each weight."""

    dims: _Dims
    values: list[int]
    places: tuple[Array, ...]
    rows: Array

    def equal(self, elements: Array) -> list[int]:
        """Return the weights that have these elements at the places, up to rounding."""
        import numpy as np

        with np.errstate(all="ignore"):  # masks hold infinities, and numbers near them
            deviation = self.rows.std(axis=1)
            farthest = np.abs(self.rows - elements.astype(np.float32)).max(axis=1)
        apart = zip(self.values, farthest, deviation, strict=True)
        return [value for value, far, unit in apart if unit > 0 and far < LARGEST_ROUNDING * unit]

    def correlating(self, elements: Array) -> list[tuple[float, int]]:
        """Return the weights that correlate with these elements at the places, each behind its correlation."""
        import numpy as np

        a, b = (x - x.mean(axis=-1, keepdims=True) for x in (self.rows, elements))
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b)
        found = np.divide(a @ b, norms, out=np.zeros(len(a)), where=norms > 0)
        return [(float(r), v) for v, r in zip(self.values, found, strict=True) if r > LEAST_CORRELATION]

    def places_in(self, shape: Sequence[int]) -> Iterator[Array]:
        """Yield the places in a flat array of a shape that has the elements reshaped or transposed, for each way."""
        import numpy as np

        wanted = [d for d in shape if d != 1]
        for order in permutations(range(len(self.dims))):
            dims = [self.dims[axis] for axis in order]
            if list(order) in (sorted(order), sorted(order)[::-1]) or [d for d in dims if d != 1] == wanted:
                yield np.ravel_multi_index([self.places[axis] for axis in order], dims)


class WeightMatches:
    """Finds the weights of an earlier graph that a weight is, or that it is made of."""

    def __init__(self, earlier: Graph, weights: WeightStore) -> None:
        """Take the earlier graph's weights; their elements are read when a weight may be one of them."""
        self._earlier, self._weights = earlier, weights
        self._by_dims: dict[_Dims, list[int]] = defaultdict(list)
        for value, tensor in earlier.initializers.items():
            if prod(tensor.dims) >= LEAST_ELEMENTS and stored_shape(tensor).kind == "f":
                self._by_dims[tuple(tensor.dims)].append(value)
        self._groups: dict[_Dims, _Group] = {}

    def find(self, tensor: TensorProto, weights: WeightStore) -> list[int]:
        """Return the earlier weights that a tensor is, several where they are equal, or those that it is made of."""
        if prod(tensor.dims) < LEAST_ELEMENTS or stored_shape(tensor).kind not in "fi":
            return []
        array = _elements(weights, tensor)
        if stored_shape(tensor).kind == "f":
            return self._equal(array) or self._concatenated(array)
        return self._quantised(array) or self._quantised(_unpacked(array))

    def is_equal(self, tensor: TensorProto, weights: WeightStore, value: int) -> bool:
        """Return whether a tensor is a certain earlier one, of few elements, maybe in another type."""
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
        """Return the weights of which an array consists, side by side along one axis; none where a piece is unknown."""
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
    """Return the weights of a group that stand in an array from a place on an axis on."""
    if start + group.dims[axis] > array.shape[axis]:
        return []
    return group.equal(array[tuple(p + start if i == axis else p for i, p in enumerate(group.places))])


def _is_slice(dims: _Dims, shape: _Dims, axis: int) -> bool:
    """Return whether arrays of these dimensions can be parts of an array of a shape, side by side along an axis."""
    return len(dims) == len(shape) and all(
        a == b or (i == axis and a < b) for i, (a, b) in enumerate(zip(dims, shape, strict=True))
    )


def _elements(weights: WeightStore, tensor: TensorProto) -> Array:
    """Return a tensor's elements, without a copy where that is possible."""
    import numpy as np

    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
    data = weights.data(tensor)
    if len(data) != dtype.itemsize * prod(tensor.dims):  # several to a byte
        return weights.array(tensor)
    return np.frombuffer(data, dtype).reshape(tensor.dims)


def _unpacked(array: Array) -> Array:
    """Return the numbers of 4 bits that bytes hold, the lower one first; other arrays as they are."""
    import numpy as np

    if array.dtype != np.uint8:
        return array
    return np.stack([array & 15, array >> 4], axis=-1).reshape(-1)
