"""Records that several reports have."""

from __future__ import annotations

from typing import Literal, NotRequired

from pydantic import with_config
from typing_extensions import TypedDict

record = with_config(extra="forbid", use_attribute_docstrings=True)
"""What makes a class a record of a report: it has no other keys, and its texts are in the schema."""

Figure = float | Literal["Infinity", "-Infinity"]
"""A number; infinities, which JSON lacks, are texts."""
Axes = dict[str, dict[str, str]]
"""The symbol of each dynamic axis, by input and by the number of the axis."""


@record
class Distance(TypedDict):
    """How far one tensor is from another."""

    max_abs: Figure
    """The largest difference."""
    relative: Figure
    """The largest difference, divided by the largest value."""
    cosine: Figure
    """The cosine of the angle between them."""
    sqnr_db: Figure
    """The ratio of signal to noise, in decibels."""
    not_finite: NotRequired[int]
    """How many elements are infinite or not a number, but should be finite."""
    largest: NotRequired[Figure]
    """The largest absolute value that is right."""
    histogram: NotRequired[list[int]]
    """How many elements differ by less than 1e-8 of that, by less than 1e-7, and so on; the last, by 1 or more."""


@record
class OutputDifference(TypedDict):
    """How far an output is from what the whole model computes."""

    output: str
    max_abs: float
    max_rel: float
    """The largest difference, divided by the largest value."""
