"""The registry of passes: the files of `mxtools/passes/`, and the entry points of other packages."""

from __future__ import annotations

import importlib
import pkgutil
import typing
import warnings
from collections.abc import Iterable
from dataclasses import Field
from functools import cache
from typing import TYPE_CHECKING, Any

from mxtools.errors import UsageError, suggestion
from mxtools.pipeline.base import Pass

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

ENTRY_POINTS = "mxtools.passes"
"""The group of entry points through which other packages register passes."""

_FOLDER = "mxtools.passes"

RENAMED = {
    "settle-given": "move-arguments-out",
    "settle-shared": "hoist-shared",
    "settle-merged": "assign-fused",
    "settle-previous": "assign-fused-previous",
}
"""Old names of passes and their new ones; the old ones still work for one more release."""


def names() -> list[str]:
    """Return the names of all passes, sorted: of the files in `mxtools/passes/`, and of other packages."""
    own = [name.replace("_", "-") for name in _files()]
    return sorted({*own, *(entry.name for entry in _entry_points())})


def load(name: str) -> type[Pass]:
    """Return the class of a pass by its name; an old name works too, with a FutureWarning.

    Raises UsageError if there is no such pass, with the nearest names, or if another package's pass cannot be imported.
    """
    if name in RENAMED:
        warnings.warn(f"the pass {name!r} is now called {RENAMED[name]!r}", FutureWarning, stacklevel=2)
    return _load(RENAMED.get(name, name))


@cache
def _load(name: str) -> type[Pass]:
    file = name.replace("-", "_")
    if file in _files():
        module = importlib.import_module(f"{_FOLDER}.{file}")
        classes = (value for value in vars(module).values() if isinstance(value, type) and issubclass(value, Pass))
        return next(cls for cls in classes if cls.__module__ == module.__name__)
    if entry := next((entry for entry in _entry_points() if entry.name == name), None):
        return _of_entry_point(entry)
    raise UsageError(f"there is no pass {name!r}", f"{suggestion(name, names())} (see ⟨passes⟩)")


def _entry_points() -> Iterable[EntryPoint]:
    from importlib.metadata import entry_points

    return entry_points(group=ENTRY_POINTS)


def _of_entry_point(entry: EntryPoint) -> type[Pass]:
    try:
        cls = entry.load()
    except Exception as error:  # another package's import can raise anything
        raise UsageError(
            f"pass {entry.name!r} of {entry.value} cannot be imported ({error})", "fix or remove that package"
        ) from error
    if not (isinstance(cls, type) and issubclass(cls, Pass)):
        raise UsageError(
            f"pass {entry.name!r} of {entry.value} is not a subclass of mxtools.Pass", "fix or remove that package"
        )
    return cls


@cache
def _files() -> tuple[str, ...]:
    folder = importlib.import_module(_FOLDER)  # by its name: passes import this file, and not the other way round
    return tuple(module.name for module in pkgutil.iter_modules(folder.__path__))


def key_of(item: Field[Any]) -> str:
    """Return the name of an option in a spec or on a command line: `class` for the field `class_`, `from-tensor`."""
    return item.name.rstrip("_").replace("_", "-")


@cache
def types_of(cls: type[Pass]) -> dict[str, Any]:
    """Return the types of a pass's fields, as objects."""
    return typing.get_type_hints(cls)
