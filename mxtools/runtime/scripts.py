"""Objects in users' Python code that `file.py:NAME` or `package.module:NAME` names; importing runs that code."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from mxtools.errors import InputError, suggestion
from mxtools.files.regular import note_reads
from mxtools.runtime.quiet import error_line, quiet, where_raised


def find(spec: str) -> Any:  # noqa: ANN401
    """Return the object that a spec names: an entry of the module's dictionary `zoo`, or an attribute, dots allowed.

    Raises InputError if there is no such file or name, or if the import raises.
    """
    source, _, name = spec.rpartition(":")
    module = _import_file(Path(source)) if source.endswith(".py") else _import_module(source)
    zoo = getattr(module, "zoo", None)
    if isinstance(zoo, Mapping) and name in zoo:
        return zoo[name]
    value: Any = module
    for part in name.split("."):
        if not hasattr(value, part):
            known = [*(zoo if isinstance(zoo, Mapping) else ()), *(n for n in vars(module) if not n.startswith("_"))]
            raise InputError(
                f"{source} has no {name!r}", suggestion(name, sorted(known)) if known else "it defines nothing"
            )
        value = getattr(value, part)
    return value


def _import_file(path: Path) -> ModuleType:
    """Import a Python file, with its folder on the module path during the import."""
    if not path.is_file():
        raise InputError(f"there is no file {path}", "give FILE.py:NAME")
    note_reads([path])
    name = f"_mx_{path.stem}"
    module_spec = importlib.util.spec_from_file_location(name, path)
    assert module_spec is not None
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    with _importing(str(path), str(path.parent.resolve())):
        sys.modules[name] = module
        module_spec.loader.exec_module(module)
    return module


def _import_module(name: str) -> ModuleType:
    try:
        with _importing(name, str(Path.cwd())):
            return importlib.import_module(name)
    except InputError as error:
        missing = error.__cause__
        if isinstance(missing, ModuleNotFoundError) and missing.name and f"{name}.".startswith(f"{missing.name}."):
            raise InputError(
                f"there is no module {missing.name}", "install its package, or give FILE.py:NAME"
            ) from error
        raise


@contextmanager
def _importing(what: str, folder: str) -> Iterator[None]:
    """Let the block import with a folder on the module path, quietly; whatever it raises becomes an InputError."""
    sys.path.insert(0, folder)
    try:
        with quiet():
            yield
    except (Exception, SystemExit) as error:
        raise InputError(f"{what} cannot be imported: {error_line(error)} ({where_raised(error)})", "fix it") from error
    finally:
        sys.path.remove(folder)
