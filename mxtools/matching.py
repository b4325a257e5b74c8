"""Which tensors of a trace the values of a graph are."""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np

from mxtools.constants import fingerprint
from mxtools.record import Values
from mxtools.shapes import Array, torch_kind
from mxtools.sidecar import Sidecar, Tensor, same_fingerprint

CLOSE = 1e-3
"""Relative tolerance of one value against another: exporters reorder sums."""


class Matcher:
    """Finds the tensors of a trace that have an array's values, in the same order; reshapes do not matter.

    Tensors of one element or of equal elements are left out: too much looks like them.
    """

    def __init__(self, sidecar: Sidecar, values: Values | None) -> None:
        """Index the tensors of all calls by size and kind; without values their fingerprints have to do."""
        self._values = values
        self._known: dict[tuple[int, str], list[Tensor]] = defaultdict(list)
        unique = {t.id: t for call in sidecar.calls for t in (*call.inputs, *call.outputs)}
        for tensor in unique.values():
            if tensor.fingerprint and tensor.fingerprint[1] != tensor.fingerprint[2]:
                self._known[math.prod(tensor.shape), torch_kind(tensor.dtype)].append(tensor)

    def sizes(self) -> set[int]:
        """Give the numbers of elements of the tensors."""
        return {size for size, _ in self._known}

    def find(self, array: Array) -> set[int]:
        """Give the ids of the tensors that an array is."""
        kind = "i" if array.dtype.kind == "u" else array.dtype.kind
        candidates = self._known.get((array.size, kind), [])
        summary = fingerprint(array) if candidates else None
        if summary is None:
            return set()
        near = [t for t in candidates if t.fingerprint and same_fingerprint(summary, t.fingerprint, CLOSE)]
        return {t.id for t in near if self._equal(array, t)}

    def _equal(self, array: Array, tensor: Tensor) -> bool:
        recorded = self._values.get(str(tensor.id)) if self._values else None
        if recorded is None:
            return True
        a, b = array.ravel(), recorded.ravel()
        if array.dtype.kind != "f":
            return bool(np.array_equal(a, b))
        scale = float(np.abs(b[np.isfinite(b)]).max(initial=0.0))
        return bool(np.allclose(a, b, rtol=CLOSE, atol=CLOSE * 0.2 * min(scale, 1.0) + 1e-6, equal_nan=True))
