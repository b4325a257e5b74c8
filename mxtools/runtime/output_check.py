"""Whether a part computes what the whole model computes: the differences of outputs with the same name."""

from __future__ import annotations

import operator
from dataclasses import dataclass

from mxtools.errors import CheckError
from mxtools.runtime.distance import UNLIKE, arrays_in, distance_of_values
from mxtools.runtime.session_values import Value


@dataclass(frozen=True)
class OutputDifference:
    """How far an output differs: the largest absolute difference, and this divided by the largest absolute value."""

    output: str
    max_abs: float
    max_rel: float


def require_close(
    differences: list[OutputDifference],
    tolerance: float,
    remedy: str = "check whether something in it is random; if not, report this",
) -> None:
    """Raise CheckError, with a remedy, if a relative difference is above a tolerance, or is not a number."""
    wrong = next((d for d in differences if not d.max_rel <= tolerance), None)
    if wrong:
        raise CheckError(
            f"output {wrong.output!r} differs from the whole model's by {wrong.max_abs:.3g} "
            f"({wrong.max_rel:.3g} of its largest value)",
            remedy,
        )


def output_difference(name: str, found: Value, wanted: Value) -> OutputDifference:
    """Return how far a value differs from the wanted one: infinitely, if its shape or element type differs."""
    kinds = ([(array.shape, array.dtype) for array in arrays_in(value)] for value in (found, wanted))
    apart = distance_of_values(found, wanted) if operator.eq(*kinds) else UNLIKE
    return OutputDifference(name, apart.max_abs, apart.relative)
