"""Load what a MODEL spec names: `./bert`, `org/name`, `file.py:NAME` or `package.module:NAME`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from inspect import Parameter
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from mxtools.errors import InputError
from mxtools.pytorch.eval_mode import evaluate
from mxtools.runtime import scripts
from mxtools.runtime.quiet import error_line, quiet, where_raised

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


class Interface:
    """How a model is called with a subject's inputs, and what its graph returns: `forward` as it is.

    `axes` are the symbols of the inputs' dynamic axes, where they are not the usual ones; `steps` are sizes in which
    the model is called too, by symbol.
    """

    axes: Mapping[str, Mapping[int, str]] = MappingProxyType({})
    steps: Mapping[str, int] = MappingProxyType({})

    def arguments(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return the keyword arguments of `forward` for inputs."""
        return inputs

    def results(self, result: Any) -> Any:  # noqa: ANN401 - any nesting
        """Return what the graph returns, named by its place, for what `forward` returned."""
        return result


@dataclass
class Subject:
    """A model in evaluation mode, and the inputs of one forward pass, in the order of its signature."""

    model: nn.Module
    inputs: dict[str, Any]
    spec: str
    interface: Interface = field(default_factory=Interface)


def load_model(
    spec: str, task: str | None = None, trust_remote_code: bool = False
) -> tuple[nn.Module, dict[str, Any] | None]:
    """Return the module that a spec names, and its inputs, None where the spec's code returns none.

    Raises InputError where there is no such model, or where its code raises.
    """
    if Path(spec).is_dir() or ":" not in spec:
        return _pretrained(spec, task, trust_remote_code), None
    return _built(scripts.find(spec), spec)


def _pretrained(spec: str, task: str | None, trust_remote_code: bool) -> nn.Module:
    """Load a Hugging Face model from a folder or the hub, with the library's own loading code."""
    if not Path(spec).is_dir() and (
        Path(spec).exists() or spec.startswith((".", "/", "~")) or not _HUB_ID.fullmatch(spec)
    ):
        raise InputError(
            f"there is no model {spec!r}", "give a Hugging Face folder or hub id, FILE.py:NAME or package.module:NAME"
        )
    with quiet():
        from mxtools.pytorch.loading import pretrained

        try:
            return pretrained.load(spec, task, trust_remote_code)
        except (OSError, ValueError, KeyError, ImportError, RuntimeError, AttributeError) as error:
            raise InputError(
                f"{spec} cannot be loaded as a Hugging Face model ({error_line(error)})", "check the folder or the id"
            ) from error


def _built(found: Any, spec: str) -> tuple[nn.Module, dict[str, Any] | None]:  # noqa: ANN401
    """Return module and inputs of what a spec names: a module, a pair of both, or a callable that returns these."""
    if not isinstance(found, nn.Module) and callable(found):
        found = _called(found, spec)
    model, inputs = found if isinstance(found, tuple) and len(found) == 2 else (found, None)
    if not isinstance(model, nn.Module):
        raise InputError(
            f"{spec} gives a {type(model).__name__}, no torch.nn.Module", "let it give a module, or (module, inputs)"
        )
    evaluate(model)
    return model, None if inputs is None else by_name(model, inputs)


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
            f"{spec} needs arguments ({', '.join(needed)})", "name a function without any that gives the module"
        )
    try:
        with quiet():
            return function()
    except Exception as error:
        raise InputError(f"{spec} raised {error_line(error)} ({where_raised(error)})", "repair it") from error


def by_name(model: nn.Module, inputs: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return inputs, a mapping or positional ones, by the parameter names of `forward`, in its order."""
    names = forward_parameters(model)
    if isinstance(inputs, Mapping):
        return {
            name: inputs[name] for name in sorted(inputs, key=lambda n: names.index(n) if n in names else len(names))
        }
    values = (inputs,) if isinstance(inputs, torch.Tensor) else tuple(inputs)
    return dict(zip(names, values, strict=False))


def forward_parameters(model: nn.Module) -> list[str]:
    """Return the names of `forward`'s parameters; of a wrapper, whose takes anything, those of the module in it."""
    parameters = inspect.signature(model.forward).parameters.values()
    inside = list(model.children())
    if len(inside) == 1 and [p.kind for p in parameters] == [Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD]:
        return forward_parameters(inside[0])
    return [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
