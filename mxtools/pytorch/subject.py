"""MODEL specs: from `./bert`, `org/name`, `file.py:NAME` or `package.module:NAME` to a module and its inputs."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from mxtools.errors import InputError
from mxtools.pytorch.quiet import described, quiet, where_raised

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass
class Subject:
    """A model in evaluation mode, and the keyword arguments of one forward pass in the order of its signature."""

    model: nn.Module
    inputs: dict[str, Any]
    spec: str


def load_model(
    spec: str, task: str | None = None, trust_remote_code: bool = False
) -> tuple[nn.Module, dict[str, Any] | None]:
    """Give the module that a spec names, and the inputs where the spec's code gives some.

    Raises InputError when there is no such model, or when its code raises.
    """
    place, colon, name = spec.rpartition(":")
    if Path(spec).is_dir() or not colon:
        return _pretrained(spec, task, trust_remote_code), None
    module = _import_file(Path(place)) if place.endswith(".py") else _import_module(place)
    return _built(_named(module, name, spec), spec)


def _pretrained(spec: str, task: str | None, trust_remote_code: bool) -> nn.Module:
    """Load a Hugging Face model from a folder or the hub, with the library's own loading code."""
    if not Path(spec).is_dir() and (
        Path(spec).exists() or spec.startswith((".", "/", "~")) or not _HUB_ID.fullmatch(spec)
    ):
        raise InputError(
            f"there is no model {spec!r}: give a Hugging Face folder or hub id, FILE.py:NAME or package.module:NAME"
        )
    with quiet():
        from mxtools.pytorch import pretrained

        try:
            return pretrained.load(spec, task, trust_remote_code)
        except (OSError, ValueError, KeyError, ImportError, RuntimeError, AttributeError) as error:
            raise InputError(
                f"{spec} cannot be loaded as a Hugging Face model ({described(error)}): check the folder or the id"
            ) from error


def _import_file(path: Path) -> ModuleType:
    """Import a Python file, with its folder on the path meanwhile."""
    if not path.is_file():
        raise InputError(f"there is no file {path}: give FILE.py:NAME")
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
        raise InputError(f"{what} cannot be imported: {described(error)} ({where_raised(error)}): repair it") from error
    finally:
        sys.path.remove(folder)


def _named(module: ModuleType, name: str, spec: str) -> Any:  # noqa: ANN401
    """Find NAME: an entry of the dictionary `zoo`, or an attribute, dotted where it is one of a class."""
    zoo = getattr(module, "zoo", None)
    if isinstance(zoo, Mapping) and name in zoo:
        return zoo[name]
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            known = [*(zoo if isinstance(zoo, Mapping) else ()), *(n for n in vars(module) if not n.startswith("_"))]
            near = difflib.get_close_matches(name, known, n=3) or sorted(known)[:3]
            raise InputError(
                f"{spec} names nothing: the nearest are {', '.join(near) or 'none, the file defines nothing'}"
            )
        found = getattr(found, part)
    return found


def _built(found: Any, spec: str) -> tuple[nn.Module, dict[str, Any] | None]:  # noqa: ANN401
    """Give module and inputs of what a spec names: a module, or a callable that gives one, or one with inputs."""
    if not isinstance(found, nn.Module) and callable(found):
        found = _called(found, spec)
    model, inputs = found if isinstance(found, tuple) and len(found) == 2 else (found, None)
    if not isinstance(model, nn.Module):
        raise InputError(
            f"{spec} gives a {type(model).__name__}, no torch.nn.Module: let it give a module, or (module, inputs)"
        )
    return model.eval(), None if inputs is None else by_name(model, inputs)


def _called(function: Callable[[], Any], spec: str) -> Any:  # noqa: ANN401
    try:
        needed = [
            p.name
            for p in inspect.signature(function).parameters.values()
            if p.default is p.empty and p.kind < p.VAR_POSITIONAL
        ]
    except (TypeError, ValueError):
        needed = []
    if needed:
        raise InputError(
            f"{spec} needs arguments ({', '.join(needed)}): name a function without any that gives the module"
        )
    try:
        with quiet():
            return function()
    except Exception as error:
        raise InputError(f"{spec} raised {described(error)} ({where_raised(error)}): repair it") from error


def by_name(model: nn.Module, inputs: Any) -> dict[str, Any]:  # noqa: ANN401
    """Give inputs, a dictionary or positional ones, by the names of `forward`, in its order."""
    names = forward_parameters(model)
    if isinstance(inputs, Mapping):
        return {
            name: inputs[name] for name in sorted(inputs, key=lambda n: names.index(n) if n in names else len(names))
        }
    values = (inputs,) if isinstance(inputs, torch.Tensor) else tuple(inputs)
    return dict(zip(names, values, strict=False))


def forward_parameters(model: nn.Module) -> list[str]:
    """Give the names of `forward`'s parameters."""
    return [
        p.name
        for p in inspect.signature(model.forward).parameters.values()
        if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
