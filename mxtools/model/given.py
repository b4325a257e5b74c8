"""What users give to a model's methods: paths, arrays, selectors, models, traces; wrong things are UsageErrors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from enum import StrEnum
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from mxtools.errors import InputError, UsageError, suggestion
from mxtools.graph.index import graph_inputs
from mxtools.pipeline.working_model import WorkingModel
from mxtools.runtime.session_values import Value
from mxtools.scopes.selection import Selection

if TYPE_CHECKING:
    from mxtools.passes.carry import Carry
    from mxtools.traces.trace import Trace
    from mxtools.traces.values import Values

E = TypeVar("E", bound=StrEnum)
M = TypeVar("M", bound=WorkingModel)
T = TypeVar("T")
PathText = str | PathLike[str]
Inputs = Mapping[str, Value]
"""Values by the names of a graph's inputs: arrays, for a sequence a list of arrays, for an absent optional None."""
MOST_LETTERS = 60
"""How much of a wrong argument a message shows."""


def selection_of(
    scopes: Iterable[str], tag: Iterable[str], class_name: Iterable[str], exclude: Iterable[str]
) -> Selection:
    """Return the selection of some selectors; a single text stands for one selector."""
    wanted = texts(scopes), texts(tag), texts(class_name), texts(exclude)
    for given in (each for selectors in wanted for each in selectors):
        if not isinstance(given, str):
            raise UsageError(f"{_shown(given)} is no selector", "give texts: `*scopes` of a list, a module's `scope`")
    return Selection(*wanted)


def texts(given: Iterable[str]) -> tuple[str, ...]:
    """Return a text, or several, as a tuple."""
    return (given,) if isinstance(given, str) else tuple(given)


def path_of(given: PathText | T) -> Path | T:
    """Return a path as a `Path`, and anything else as it is."""
    return Path(given) if isinstance(given, str | PathLike) else given


def paths(given: PathText | Iterable[PathText]) -> list[Path]:
    """Return a path, or several, as a list."""
    return [Path(path) for path in ([given] if isinstance(given, str | PathLike) else given)]


def one_of(kind: type[E], given: str, what: str) -> E:
    """Return the one of a fixed number of words that was given; UsageError, with these words, if it is none of them."""
    if given not in list(kind):
        raise UsageError(f"there is no {what} {given!r}", f"there are {', '.join(kind)}")
    return kind(given)


def carry_of(carriers: Mapping[str, bool]) -> Carry:
    """Return the pass that copies tags to other places; UsageError if there is no such place."""
    from mxtools.passes.carry import Carry

    known = [field.name for field in fields(Carry)]
    if unknown := carriers.keys() - {*known}:
        name = min(unknown)
        raise UsageError(f"tags cannot be copied to {name!r}", suggestion(name, known))
    return Carry(**carriers)


def trace_of(given: Trace | None) -> Trace | None:
    """Return a trace, or None; UsageError if something else was given, such as the path of one."""
    from mxtools.traces.trace import Trace

    if given is None or isinstance(given, Trace):
        return given
    raise UsageError(f"{_shown(given)} is no trace", "give what `mxtools.load_trace` or `mxtools.trace` returned")


def model_of(given: M) -> M:
    """Return a model; UsageError if something else was given, such as the path of one."""
    if isinstance(given, WorkingModel):
        return given
    raise UsageError(f"{_shown(given)} is no model", "give what `mxtools.load` or `mxtools.from_proto` returned")


def _shown(given: Any) -> str:  # noqa: ANN401 - anything that is not what it should be
    return f"{repr(given)[:MOST_LETTERS]} ({type(given).__name__})"


def require_inputs(given: Inputs, model: WorkingModel) -> None:
    """Raise InputError if a name is not that of an input of the graph."""
    if unknown := given.keys() - {value.name for value in model.proto.graph.input}:
        known = [value.name for value in graph_inputs(model.proto)]
        raise InputError(f"the graph has no input {min(unknown)!r}", f"it has {', '.join(known)}")


def array_values(inputs: Inputs, model: WorkingModel) -> Values:
    """Return arrays as values that are read by name; lists of arrays, which are sequences, stay lists.

    Raises InputError if a name is not that of an input of the model's graph.
    """
    from mxtools.traces.values import Values

    require_inputs(inputs, model)
    return Values(inputs.keys(), lambda name: v if isinstance(v := inputs[name], list) else np.asarray(v))
