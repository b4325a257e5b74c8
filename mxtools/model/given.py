"""What users give to a model's methods: paths, arrays, selectors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from os import PathLike
from typing import TYPE_CHECKING

import numpy as np

from mxtools.runtime.session_values import Value
from mxtools.scopes.selection import Selection

if TYPE_CHECKING:
    from mxtools.traces.values import Values

PathText = str | PathLike[str]
Inputs = Mapping[str, Value]
"""Values by the names of a graph's inputs: arrays, for a sequence a list of arrays, for an absent optional None."""


def selection_of(
    scopes: Iterable[str], tag: Iterable[str], class_name: Iterable[str], exclude: Iterable[str]
) -> Selection:
    """Return the selection of some selectors; a single text stands for one selector."""
    return Selection(texts(scopes), texts(tag), texts(class_name), texts(exclude))


def texts(given: Iterable[str]) -> tuple[str, ...]:
    """Return a text, or several, as a tuple."""
    return (given,) if isinstance(given, str) else tuple(given)


def array_values(inputs: Inputs) -> Values:
    """Return arrays as values that are read by name; lists of arrays, which are sequences, stay lists."""
    from mxtools.traces.values import Values

    return Values(inputs.keys(), lambda name: v if isinstance(v := inputs[name], list) else np.asarray(v))
