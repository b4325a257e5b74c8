"""Users' Python: what `file.py:NAME` or `package.module:NAME` names. It runs their code, because they named it."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from mxtools.errors import InputError
from mxtools.runtime.quiet import described, quiet, where_raised


def find(spec: str) -> Any:  # noqa: ANN401
    """Give what a spec names: an entry of the dictionary `zoo`, or an attribute, dotted where it is one of a class.

    Raises InputError where there is no such file or name, or where the import raises.
    """
    place, _, name = spec.rpartition(":")
    module = _import_file(Path(place)) if place.endswith(".py") else _import_module(place)
    zoo = getattr(module, "zoo", None)
    if isinstance(zoo, Mapping) and name in zoo:
        return zoo[name]
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            known = [*(zoo if isinstance(zoo, Mapping) else ()), *(n for n in vars(module) if not n.startswith("_"))]
            near = difflib.get_close_matches(name, known, n=3) or sorted(known)[:3]
            raise InputError(
                f"{spec} names nothing", f"the nearest are {', '.join(near) or 'none, the file defines nothing'}"
            )
        found = getattr(found, part)
    return found


def _import_file(path: Path) -> ModuleType:
    """Import a Python file, with its folder on the path meanwhile."""
    if not path.is_file():
        raise InputError(f"there is no file {path}", "give FILE.py:NAME")
    name = f"_mx_{path.stem}"
    loader = importlib.util.spec_from_file_location(name, path)
    assert loader is not None
    assert loader.loader is not None
    module = importlib.util.module_from_spec(loader)
    with _importing(str(path), str(path.parent.resolve())):
        sys.modules[name] = module
        loader.loader.exec_module(module)
    return module


def _import_module(name: str) -> ModuleType:
    with _importing(name, str(Path.cwd())):
        return importlib.import_module(name)


@contextmanager
def _importing(what: str, folder: str) -> Iterator[None]:
    """Put a folder on the module path, keep output quiet, and turn what an import raises into one line."""
    sys.path.insert(0, folder)
    try:
        with quiet():
            yield
    except (Exception, SystemExit) as error:
        raise InputError(
            f"{what} cannot be imported: {described(error)} ({where_raised(error)})", "repair it"
        ) from error
    finally:
        sys.path.remove(folder)
