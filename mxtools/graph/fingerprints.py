"""Fingerprints of tensors: a few numbers that do not depend on the order of the elements."""

from __future__ import annotations

import math

from mxtools.graph.shapes import Array
from mxtools.graph.types import plain

NUMERIC = "fiub"
"""Kinds of elements (numpy's `dtype.kind`) that are numbers: floats, integers, unsigned integers, bools."""
Fingerprint = tuple[int, float, float, float, float]
"""The number of elements; then the minimum, maximum, sum and sum of squares of the finite ones, in float64."""


def fingerprint(array: Array) -> Fingerprint | None:
    """Return the fingerprint of an array, None if its elements are not numbers."""
    import numpy as np

    array = plain(array)
    if array.dtype.kind not in NUMERIC:
        return None
    finite = array.astype(np.float64).ravel()
    finite = finite[np.isfinite(finite)]
    if not finite.size:
        return (array.size, 0.0, 0.0, 0.0, 0.0)
    return (array.size, float(finite.min()), float(finite.max()), float(finite.sum()), float(finite @ finite))


def same_fingerprint(a: Fingerprint, b: Fingerprint, tolerance: float = 1e-4) -> bool:
    """Return whether two fingerprints can be those of the same values, up to rounding.

    `tolerance` is relative to the largest absolute value. Sums may differ by more than extremes, because the rounding
    errors of `n` elements add up to about the square root of `n` times one.
    """
    if a[0] != b[0]:
        return False
    extent = max(abs(b[1]), abs(b[2]), 1e-12)
    count = max(a[0], 1)
    scales = (extent, extent, extent * math.sqrt(count), extent * extent * math.sqrt(count))
    return all(abs(x - y) <= tolerance * scale for x, y, scale in zip(a[1:], b[1:], scales, strict=True))
