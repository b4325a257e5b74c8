"""How far one array is from another."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from mxtools.graph.fingerprints import NUMERIC
from mxtools.graph.shapes import Array
from mxtools.graph.types import plain
from mxtools.runtime.session_values import Value


@dataclass(frozen=True)
class Distance:
    """How far an array is from the wanted one; two nan, or two equal infinities, do not differ.

    Attributes: `max_abs`, the largest absolute difference; `relative`, this divided by the largest absolute value
    wanted; `cosine`, that of the angle between both arrays as vectors; `sqnr`, the signal to quantisation noise ratio
    in dB, 10 log10 of the energy (sum of squares) of the wanted array divided by that of the difference; `not_finite`,
    how many elements are nan or infinite but should be finite, as when half precision overflows; `largest`, the largest
    absolute value wanted; `histogram`, how many elements differ by how much of that: by less than 1e-8, by less than
    1e-7, and so on, finally by 1 or more. The last two are left out if nothing differs or nothing can be compared.
    """

    max_abs: float
    relative: float
    cosine: float
    sqnr: float
    not_finite: int = field(default=0, compare=False)
    largest: float | None = field(default=None, compare=False)
    histogram: tuple[int, ...] = field(default=(), compare=False)

    @property
    def relative_l2(self) -> float:
        """The length of the difference as a vector, divided by that of the wanted array."""
        return relative_l2(self.sqnr)


EQUAL = Distance(0.0, 0.0, 1.0, math.inf)
UNLIKE = Distance(math.inf, math.inf, 0.0, -math.inf)
DECADES = (0.0, *(10.0**power for power in range(-8, 1)), math.inf)
"""The edges of the histogram."""


def relative_l2(sqnr: float) -> float:
    """Return the relative L2 error that an SQNR in dB stands for.

    >>> relative_l2(40.0)
    0.01
    """
    return 10 ** (-sqnr / 20) if sqnr > -6000 else math.inf  # beyond float64


def worst(distances: Iterable[Distance]) -> Distance | None:
    """Return the distance with the largest relative error, None if there is none."""
    return max(distances, key=lambda d: d.relative, default=None)


def distance_of_values(found: Value, wanted: Value) -> Distance:
    """Return the distance of two values that need not be arrays: the largest distance of the arrays in them."""
    a, b = list(arrays_in(found)), list(arrays_in(wanted))
    return (worst(map(distance, a, b)) or EQUAL) if len(a) == len(b) else UNLIKE


def arrays_in(value: Value) -> Iterator[Array]:
    """Yield the arrays in a value: of a sequence its elements, of a map its keys and values; none if it is absent.

    >>> [array.tolist() for array in arrays_in([np.ones(2), {"a": 3}])]
    [[1.0, 1.0], 'a', 3]
    """
    import numpy as np

    if isinstance(value, list | tuple):
        for element in value:
            yield from arrays_in(element)
    elif isinstance(value, dict):
        yield from arrays_in([element for pair in value.items() for element in pair])
    elif value is not None:
        yield np.asarray(value)


def distance(found: Array, wanted: Array) -> Distance:
    """Return the distance of two arrays, element by element in order, whatever their shapes.

    Arrays with different numbers of elements are UNLIKE, and so are arrays that differ and are not of numbers.
    """
    import numpy as np

    a, b = plain(found).ravel(), plain(wanted).ravel()
    if a.size != b.size or a.dtype.kind not in NUMERIC or b.dtype.kind not in NUMERIC:
        return EQUAL if a.size == b.size and bool(np.all(a == b)) else UNLIKE
    a, b = a.astype(np.float64), b.astype(np.float64)
    # nan differs from nan, and infinity minus infinity is nan, so both are handled before anything is subtracted.
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    if same.all():
        return EQUAL
    finite = np.isfinite(a) & np.isfinite(b)
    if not (same | finite).all():
        largest = float(np.abs(b[np.isfinite(b)]).max(initial=0.0))
        return replace(UNLIKE, not_finite=int((np.isfinite(b) & ~np.isfinite(a)).sum()), largest=largest)
    a, b, noise = a[finite], b[finite], a[finite] - b[finite]
    largest, furthest = float(np.abs(b).max()), float(np.abs(noise).max())
    if not largest:
        return Distance(furthest, furthest, 0.0, -math.inf)
    counts, _ = np.histogram(np.abs(noise) / largest, DECADES)
    signal, noise = b / largest, noise / furthest  # squares of tiny numbers would underflow to zero
    ratio = largest / furthest * math.sqrt(float(signal @ signal) / float(noise @ noise))
    sqnr = 20 * math.log10(ratio)
    return Distance(furthest, furthest / largest, _cosine(a, signal), sqnr, 0, largest, tuple(counts.tolist()))


def _cosine(a: Array, b: Array) -> float:
    """Return the cosine of the angle between two vectors, the second of which is not zero."""
    import numpy as np

    largest = float(np.abs(a).max())
    a = a / largest if largest else a
    return float(a @ b) / math.sqrt(float(a @ a) * float(b @ b)) if largest else 0.0
