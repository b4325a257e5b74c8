"""Values of tensors by name, from a file: those that a trace recorded, or inputs that a user gives.

A trace records its inputs under their names, and the tensors of its calls under their ids.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
        """Return the values in a `.safetensors`, `.npz` or `.json` file; InputError if it cannot be read as such."""
        from safetensors import SafetensorError, safe_open

        try:
            if file.suffix == ".safetensors":
                opened: Any = safe_open(file, framework="numpy")
                return cls(set(opened.keys()), opened.get_tensor)
            if file.suffix == ".npz":
                arrays = np.load(file, allow_pickle=False)
                return cls(set(arrays.files), arrays.__getitem__)
            if file.suffix == ".json":
                return cls._of_lists(decoded(file.read_bytes()))
        except (OSError, ValueError, AttributeError, SafetensorError) as error:
            raise InputError(f"{file} cannot be read as values by name ({error})", "record or save it again") from None
        raise UsageError(f"{file} is no .safetensors, .npz or .json file", "give one of these")

    @classmethod
    def _of_lists(cls, lists: dict[str, list[object]]) -> Values:
        """Return the values in nested lists of numbers; floats become float32, as models expect."""
        arrays = {name: np.asarray(value) for name, value in lists.items()}
        single = {name: a.astype(np.float32) if a.dtype.kind == "f" else a for name, a in arrays.items()}
        return cls(single.keys(), single.__getitem__)


def recorded(sidecar: Sidecar, folder: Path) -> Values | None:
    """Return the values beside a sidecar, None if it has none; InputError if their file cannot be read.

    The name must be a plain file name: a sidecar from elsewhere must not make us read any other file.
    """
    if not sidecar.record:
        return None
    if Path(sidecar.record).name != sidecar.record:
        raise InputError(f"the sidecar's record {sidecar.record!r} is no file name", "it must lie beside the sidecar")
    return Values.open(folder / sidecar.record)


def feeds(sidecar: Sidecar, values: Values, names: list[str]) -> dict[str, Array]:
    """Return the recorded values of a graph's inputs, by name.

    If the graph has other names than the trace, its inputs are taken to come in the same order.
    """
    by_name = {name: array for name in names if (array := values.get(name)) is not None}
    if len(by_name) == len(names):
        return by_name
    traced = [array for tensor in sidecar.model.inputs if (array := values.get(tensor.name)) is not None]
    return dict(zip(names, traced, strict=True)) if len(traced) == len(names) else by_name
