"""The registry of passes: the files of `mxtools/passes/`, and the entry points of other packages."""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import pkgutil
import typing
import warnings
from dataclasses import Field
from functools import cache
from typing import Any

from mxtools.errors import UsageError
from mxtools.pipeline.base import Pass

ENTRY_POINTS = "mxtools.passes"

_ROOM = "mxtools.passes"

RENAMED = {
    "settle-given": "move-arguments-out",
    "settle-shared": "hoist-shared",
    "settle-merged": "assign-fused",
    "settle-previous": "assign-fused-previous",
}
"""Passes by their names of the last release, which are understood for one release more."""


def names() -> list[str]:
    """Return the names of all passes: the files of `mxtools/passes/` and the entry points of others."""
    own = [name.replace("_", "-") for name in _files()]
    return sorted({*own, *(entry.name for entry in importlib.metadata.entry_points(group=ENTRY_POINTS))})


def load(name: str) -> type[Pass]:
    """Return the class of a pass; one that was renamed is found by its old name too, with a FutureWarning.

    Raises UsageError, with the nearest names, when there is none, or when another package's pass cannot be imported.
    """
    if name in RENAMED:
        warnings.warn(f"the pass {name!r} is now called {RENAMED[name]!r}", FutureWarning, stacklevel=2)
    return _load(RENAMED.get(name, name))


@cache
def _load(name: str) -> type[Pass]:
    file = name.replace("-", "_")
    if file in _files():
        module = importlib.import_module(f"{_ROOM}.{file}")
        classes = (value for value in vars(module).values() if isinstance(value, type) and issubclass(value, Pass))
        return next(cls for cls in classes if cls.__module__ == module.__name__)
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS, name=name):
        return _of_entry_point(entry)
    near = difflib.get_close_matches(name, names(), n=3) or names()
    raise UsageError(f"no pass is called {name!r}", f"there are {', '.join(near)} (see `mx passes`)")


def _of_entry_point(entry: importlib.metadata.EntryPoint) -> type[Pass]:
    try:
        found = entry.load()
    except Exception as error:  # another package's import can raise anything
        raise UsageError(
            f"pass {entry.name!r} of {entry.value} cannot be imported ({error})", "repair or remove that package"
        ) from error
    if not (isinstance(found, type) and issubclass(found, Pass)):
        raise UsageError(
            f"pass {entry.name!r} of {entry.value} is no subclass of mxtools.Pass", "repair or remove that package"
        )
    return found


@cache
def _files() -> tuple[str, ...]:
    room = importlib.import_module(_ROOM)  # by its name: the passes import this room, not the other way round
    return tuple(module.name for module in pkgutil.iter_modules(room.__path__))


def key_of(item: Field[Any]) -> str:
    """Return an option's name in a spec or on a command line: of `class_` `class`, of `from_tensor` `from-tensor`."""
    return item.name.rstrip("_").replace("_", "-")


def types_of(cls: type[Pass]) -> dict[str, Any]:
    """Return the types of a pass's fields, as objects."""
    return typing.get_type_hints(cls)
