"""Sets of inputs: those that a search sees, and those that are held back, to judge the model that it found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from onnx import ModelProto

from mxtools.errors import InputError, UsageError
from mxtools.graph.index import graph_inputs
from mxtools.graph.shapes import Array
from mxtools.graph.types import as_type, size_of
from mxtools.traces.values import Values, files_of

PIECES = 12
"""About how many sets a single file is divided into, if the model takes a batch of any size."""
HELD = 3
"""Every third set is held back."""

Set = Mapping[str, Any]
"""Arrays by name: the inputs of the graph, and what else a user's function needs, such as labels."""


Source: TypeAlias = Path | Sequence[Set]
"""A file or a folder of inputs, or sets in memory."""


@dataclass(frozen=True)
class Origin:
    """Where a set comes from.

    Attributes: `file`, its name without the folder, empty for a set in memory; `start` and `stop`, the rows of the file
    that are the set (`stop` is not among them), None if it is the whole file.
    """

    file: str
    start: int | None = None
    stop: int | None = None


@dataclass(frozen=True)
class Samples:
    """The sets of inputs of a search.

    Attributes: `seen`, the sets that the search judges models on and that quantisers find the ranges of activations on;
    `held`, the sets that only the result is judged on; `origins`, where each of the seen sets comes from.
    """

    seen: Sequence[Set]
    held: Sequence[Set]
    origins: Sequence[Origin] = ()


def samples(model: ModelProto, inputs: Source, held: Source | None, more: bool) -> Samples:
    """Return sets of inputs, with their arrays in the types of the model's inputs.

    If `held` is None, every third set of `inputs` is held back, of two sets the second. `more` says whether a set may
    have arrays that are no inputs of the model.

    Raises UsageError if there are no sets, or none that can be held back, if a folder has no files, or if a set has an
    array that is no input and `more` is false; InputError if a file cannot be read, or a set lacks an input.
    """
    found = _sets(model, inputs, more)
    if held is not None:
        kept = [each for each, _ in _sets(model, held, more)]
        return Samples([each for each, _ in found], kept, [origin for _, origin in found])
    chosen = range(HELD - 1, len(found), HELD) or range(1, len(found))
    if not chosen:
        raise UsageError(
            "there is one set of inputs, and none can be held back", "give more sets, or others by ⟨held-back⟩"
        )
    seen = [pair for at, pair in enumerate(found) if at not in chosen]
    return Samples([each for each, _ in seen], [found[at][0] for at in chosen], [origin for _, origin in seen])


def _sets(model: ModelProto, source: Source, more: bool) -> list[tuple[Set, Origin]]:
    """Return the sets of a source, each with its origin: one for each file of a folder; a single file is divided."""
    if not isinstance(source, Path):
        if not source:
            raise UsageError("there is no set of inputs", "give at least two sets, or one and others by ⟨held-back⟩")
        return [(_typed(model, each, "a set", more), Origin("")) for each in source]
    files = files_of(source)
    found = [_read(model, file, more) for file in files]
    if len(found) == 1:
        return _pieces(model, found[0], files[0].name)
    return [(each, Origin(file.name)) for each, file in zip(found, files, strict=True)]


def _read(model: ModelProto, file: Path, more: bool) -> Set:
    """Return the arrays in a file, without those whose element type numpy does not know."""
    values = Values.open(file)
    arrays = {name: values.get(name) for name in sorted(values.names)}
    return _typed(model, {name: array for name, array in arrays.items() if array is not None}, str(file), more)


def _typed(model: ModelProto, arrays: Set, where: str, more: bool) -> Set:
    """Return a set with the inputs of the model first, in the model's types.

    Raises InputError if an input is missing, UsageError if there are other arrays and `more` is false. `where` says in
    the message what the arrays are of.
    """
    types = {value.name: value.type for value in graph_inputs(model)}
    missing = next((name for name in types if name not in arrays), None)
    if missing is not None:
        raise InputError(f"{where} has no value for the graph's input {missing!r}", "give all inputs in each set")
    others = [name for name in arrays if name not in types]
    if others and not more:
        raise UsageError(
            f"{where} has {others[0]!r}, which is not an input of the graph", f"there are {', '.join(types)}"
        )
    return {name: as_type(arrays[name], type_) for name, type_ in types.items()} | {n: arrays[n] for n in others}


def _pieces(model: ModelProto, whole: Set, name: str) -> list[tuple[Set, Origin]]:
    """Divide a set along the first axis of its arrays, if that is the batch; else return the whole set.

    It is the batch if all arrays have the same number of rows, and the model takes either any number of rows, by one
    name, or a fixed number of them in all inputs. Each part has that fixed number of rows, or about a twelfth of all
    rows. Rows that do not fill a part are left out.
    """
    sizes = {array.shape[0] if getattr(array, "ndim", 0) else 0 for array in whole.values()}
    dims = [v.type.tensor_type.shape.dim[0] for v in graph_inputs(model) if v.type.tensor_type.shape.dim]
    first, names = set(map(size_of, dims)), {dim.dim_param for dim in dims}
    rows = sizes.pop() if len(sizes) == 1 and len(names) == 1 else 0
    fixed = next((size for size in first if size is not None), None)
    step = fixed or max(1, rows // PIECES)
    if rows <= step or (None in first and fixed is not None):
        return [(whole, Origin(name))]
    return [
        ({n: array[at : at + step] for n, array in whole.items()}, Origin(name, at, at + step))
        for at in range(0, rows - step + 1, step)
    ]


def fed(model: ModelProto, each: Set) -> dict[str, Array]:
    """Return only those arrays of a set that are inputs of the model."""
    return {value.name: each[value.name] for value in graph_inputs(model)}


ROWS = 16
"""Rows of a piece: what the model is run on while units are measured and plans rehearsed."""


def pieces(model: ModelProto, sets: Sequence[Set]) -> list[Set]:
    """Return sets of inputs in pieces of at most ROWS rows: first the first piece of each set, then the second of each.

    So the first few pieces have data of as many sets as possible. Returns the sets as they are if they cannot be
    divided: the first axes of all inputs must have one name in the model, or none, and no fixed size.
    """
    inputs = graph_inputs(model)
    dims = [v.type.tensor_type.shape.dim[0] for v in inputs if v.type.tensor_type.shape.dim]
    free = len(dims) == len(inputs) and all(size_of(dim) is None for dim in dims)
    if not free or len({dim.dim_param for dim in dims}) != 1:
        return list(sets)
    rows = [min((len(array) for array in each.values()), default=0) for each in sets]
    return [
        {name: array[at : at + ROWS] for name, array in each.items()}
        for at in range(0, max(rows, default=0), ROWS)
        for each, count in zip(sets, rows, strict=True)
        if at < count
    ]
