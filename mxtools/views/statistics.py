"""Statistics of weights, from their bytes; only one piece of them is in memory at a time.

The variance is not computed as the mean of squares less the square of the mean. For weights around 1000 that differ by
0.001, both are a million, and rounding destroys their difference. Instead, each piece has a mean and a sum of squared
distances from this mean. For two pieces together, the sums are added, plus a term for the distance of the two means.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import astuple, dataclass

import onnx
from onnx import SparseTensorProto, TensorProto

from mxtools.files.elements import bits_of
from mxtools.files.regular import PIECE
from mxtools.files.weights import WeightStore
from mxtools.graph.fingerprints import NUMERIC
from mxtools.graph.shapes import Array
from mxtools.graph.types import plain


@dataclass(frozen=True)
class Statistics:
    """The elements of a weight: the least and the largest finite one, and their mean and standard deviation."""

    least: float | None
    """None if no element is finite."""
    most: float | None
    mean: float
    deviation: float
    zeros: float
    """The share of elements that are zero."""
    odd: int
    """Elements that are infinite or not a number."""

    def row(self) -> tuple[float | None, ...]:
        """Return the numbers in the order of the fields; a number that overflowed is None."""
        return tuple(n if n is None or math.isfinite(n) else None for n in astuple(self))


def statistics_of(weight: TensorProto | SparseTensorProto, weights: WeightStore) -> Statistics | None:
    """Return the statistics of a weight (of its values, if it is sparse); None if it has no numbers."""
    import numpy as np

    tensor = weight if isinstance(weight, TensorProto) else weight.values
    if not bits_of(tensor.data_type):
        return None
    count = zeros = finite = 0
    least, most, mean, squares = math.inf, -math.inf, 0.0, 0.0
    for piece in _pieces(tensor, weights):
        if piece.dtype.kind not in NUMERIC:
            return None
        count += piece.size
        known = piece.astype(np.float64)
        known = known[np.isfinite(known)]
        if not known.size:
            continue
        zeros += known.size - int(np.count_nonzero(known))
        least, most = min(least, float(known.min())), max(most, float(known.max()))
        with np.errstate(over="ignore"):
            own = float(known.mean())
            both, apart = finite + known.size, own - mean
            squares += float(np.square(known - own).sum()) + apart * apart * finite * known.size / both
        mean, finite = mean + apart * known.size / both, both
    if not finite:
        return Statistics(None, None, 0.0, 0.0, 0.0, count) if count else None
    return Statistics(least, most, mean, math.sqrt(squares / finite), zeros / count, count - finite)


def _pieces(tensor: TensorProto, weights: WeightStore) -> Iterator[Array]:
    """Yield the elements of a tensor in flat pieces; several may share a byte, and bytes may come cut inside one."""
    if tensor.data_location != TensorProto.EXTERNAL and not tensor.HasField("raw_data"):
        yield plain(onnx.numpy_helper.to_array(tensor)).ravel()
        return
    bits, left, rest = bits_of(tensor.data_type), math.prod(tensor.dims), b""
    for part in (whole[at : at + PIECE] for whole in weights.streamed(tensor) for at in range(0, len(whole), PIECE)):
        held = rest + bytes(part)
        count = min(left, len(held) * 8 // bits)
        used = -(-count * bits // 8)
        rest = held[used:]
        if count:
            piece = TensorProto(data_type=tensor.data_type, dims=[count], raw_data=held[:used])
            yield plain(onnx.numpy_helper.to_array(piece))
        left -= count
