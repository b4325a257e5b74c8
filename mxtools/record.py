"""Recorded values: the model's inputs by name, and every tensor of the calls by id."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from mxtools.errors import InputError
from mxtools.shapes import Array
from mxtools.sidecar import Sidecar, Tensor


class Values:
    """Reads values when they are asked for, each from its place in the file."""

    def __init__(self, file: Path) -> None:
        """Open a `.safetensors` file; InputError where it is not there or is none."""
        from safetensors import SafetensorError, safe_open

        self._file: Any = None
        try:
            self._file = safe_open(file, framework="numpy")
            self._names = set(self._file.keys())
        except (OSError, SafetensorError) as error:
            raise InputError(
                f"{file} cannot be read as recorded values ({error}): run `mx trace --record` again"
            ) from None
        self.tensor = cache(self._tensor)

    def _tensor(self, tensor: int) -> Array | None:
        """Give the value of a tensor of a call by its id, None where it was not recorded."""
        return self._get(str(tensor))

    def input(self, name: str) -> Array | None:
        """Give the value of a model's input by its name."""
        return self._get(name)

    def _get(self, name: str) -> Array | None:
        if name not in self._names:
            return None
        try:
            array: Array = self._file.get_tensor(name)
        except TypeError:  # a type that numpy does not have
            return None
        return array


def recorded(sidecar: Sidecar, folder: Path) -> Values | None:
    """Open the values beside a sidecar, None where it has none; InputError where the name is no plain one."""
    if not sidecar.record:
        return None
    if Path(sidecar.record).name != sidecar.record:
        raise InputError(f"the sidecar's record {sidecar.record!r} is no file name: it must lie beside the sidecar")
    return Values(folder / sidecar.record)


def feeds(sidecar: Sidecar, values: Values, names: list[str]) -> dict[str, Array]:
    """Give the values of a graph's inputs, by name, or in order where the graph has other names."""
    traced: list[Tensor] = list(sidecar.model.inputs)
    by_name = {t.name: array for t in traced if (array := values.input(t.name)) is not None}
    if set(names) <= set(by_name):
        return {name: by_name[name] for name in names}
    return dict(zip(names, by_name.values(), strict=False)) if len(names) == len(by_name) else {}
