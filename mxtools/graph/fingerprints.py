"""Fingerprints of tensors: a few numbers that do not depend on the order of the elements."""

from __future__ import annotations

import math

import numpy as np

from mxtools.graph.shapes import Array

NUMERIC = "fiub"
"""Kinds of elements, as numpy names them, that are looked at."""
Fingerprint = tuple[int, float, float, float, float]
"""Number of elements, then minimum, maximum, sum and sum of squares (float64) of the finite ones; all order-free."""


def fingerprint(array: Array) -> Fingerprint | None:
    """Give count, minimum, maximum, sum and sum of squares of an array's finite elements; None for what has none."""
    if array.dtype.kind not in NUMERIC:
        return None
    finite = array.astype(np.float64).ravel()
    finite = finite[np.isfinite(finite)]
    if not finite.size:
        return (array.size, 0.0, 0.0, 0.0, 0.0)
    return (array.size, float(finite.min()), float(finite.max()), float(finite.sum()), float(finite @ finite))


def same_fingerprint(a: Fingerprint, b: Fingerprint, tolerance: float = 1e-4) -> bool:
    """Tell whether two fingerprints can be of the same values up to rounding; `tolerance` is relative to the extent."""
    if a[0] != b[0]:
        return False
    extent = max(abs(b[1]), abs(b[2]), 1e-12)
    count = max(a[0], 1)
    scales = (extent, extent, extent * math.sqrt(count), extent * extent * math.sqrt(count))
    return all(abs(x - y) <= tolerance * scale for x, y, scale in zip(a[1:], b[1:], scales, strict=True))
