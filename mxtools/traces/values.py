"""Values of tensors by name, from a file: those that a trace recorded, or inputs that a user gives.

A trace records its inputs under their names, and the tensors of its calls under their ids.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np

from mxtools.errors import InputError, UsageError
from mxtools.files.json_text import decoded
from mxtools.graph.shapes import Array

if TYPE_CHECKING:
    from mxtools.traces.sidecar import Sidecar

KEPT = 16
"""So many arrays stay in memory after they were read."""


class Values:
    """Arrays by name, each read when it is asked for: `names` are all names, `get(name)` returns an array or None."""

    def __init__(self, names: Collection[str], read: Callable[[str], Array]) -> None:
        """Take the names and a function that reads one; it raises TypeError for an element type unknown to numpy."""
        self.names, self._read = names, read
        self.get = lru_cache(KEPT)(self._get)

    def _get(self, name: str) -> Array | None:
        """Return the array of a name, None if there is none or numpy does not know its element type."""
        if name not in self.names:
            return None
        try:
            return self._read(name)
        except TypeError:
            return None

    @classmethod
    def open(cls, file: Path) -> Values:
        """Return the values in a `.safetensors`, `.npz` or `.json` file; raises what `open_arrays` raises."""
        names, read = open_arrays(file)
        return cls(set(names), read)


def open_arrays(file: Path, framework: str = "numpy") -> tuple[list[str], Callable[[str], Any]]:
    """Return the names in a `.safetensors`, `.npz` or `.json` file, and a function that reads the array of one.

    With the framework `pt` those of a `.safetensors` file are read as torch's tensors: numpy lacks some element types.
    Raises InputError if there is no such file or it cannot be read, UsageError if it is of another kind.
    """
    from safetensors import SafetensorError, safe_open

    try:
        if file.suffix == ".safetensors":
            opened: Any = safe_open(file, framework=framework)
            return list(opened.keys()), opened.get_tensor
        if file.suffix == ".npz":
            arrays = np.load(file, allow_pickle=False)
            return list(arrays.files), arrays.__getitem__
        if file.suffix == ".json":
            listed = {name: _array(value) for name, value in decoded(file.read_bytes()).items()}
            return list(listed), listed.__getitem__
    except FileNotFoundError:
        raise InputError(f"there is no file {file}", "give a .safetensors, .npz or .json file") from None
    except (OSError, ValueError, AttributeError, BadZipFile, SafetensorError) as error:
        raise InputError(f"{file} cannot be read as arrays by name ({error})", "record or save it again") from None
    raise UsageError(f"{file} is no .safetensors, .npz or .json file", "give one of these")


def _array(numbers: object) -> Array:
    """Return nested lists of numbers as an array; floats become float32, as models expect."""
    array = np.asarray(numbers)
    return array.astype(np.float32) if array.dtype.kind == "f" else array


def recorded(sidecar: Sidecar, folder: Path) -> Values | None:
    """Return the values beside a sidecar, None if it has none; InputError if their file cannot be read.

    The name must be a plain file name: a sidecar from elsewhere must not make us read any other file.
    """
    if not sidecar.record:
        return None
    if Path(sidecar.record).name != sidecar.record:
        raise InputError(f"the sidecar's record {sidecar.record!r} is no file name", "it must lie beside the sidecar")
    return Values.open(folder / sidecar.record)


def feeds(sidecar: Sidecar | None, values: Values, names: list[str]) -> dict[str, Array]:
    """Return the recorded or given values of a graph's inputs, by name.

    If the graph has other names than the trace, its inputs are taken to come in the same order.
    """
    by_name = {name: array for name in names if (array := values.get(name)) is not None}
    if len(by_name) == len(names) or not sidecar:
        return by_name
    traced = [array for tensor in sidecar.model.inputs if (array := values.get(tensor.name)) is not None]
    return dict(zip(names, traced, strict=True)) if len(traced) == len(names) else by_name
