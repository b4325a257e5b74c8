"""What is traced and exported: a model, the inputs of one forward pass, and how to call it with them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from inspect import Parameter
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from mxtools.errors import UsageError


class Interface:
    """How to call a model with a subject's inputs, and what its graph returns; here, `forward` as it is.

    `steps` are further sizes in which the model is called, by the symbol of an axis.
    """

    steps: Mapping[str, int] = MappingProxyType({})

    def axes(self) -> Mapping[str, Mapping[int, str]]:
        """Return the symbols of the inputs' dynamic axes, if they are not the usual ones."""
        return {}

    def arguments(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return the keyword arguments of `forward` for inputs."""
        return inputs

    def hidden(self, inputs: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002 - those of other interfaces
        """Return the inputs whose tensors are in arguments that are not containers of tensors."""
        return {}

    def results(self, result: Any) -> Any:  # noqa: ANN401 - any nesting
        """Return what the graph returns for a result of `forward`; the place of a tensor in it is its name."""
        return result


@dataclass
class Subject:
    """A model in evaluation mode, and the inputs of one forward pass, in the order of its signature."""

    model: nn.Module
    inputs: dict[str, Any]
    spec: str
    interface: Interface = field(default_factory=Interface)


def by_name(model: nn.Module, inputs: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return inputs, a mapping or positional ones, by the parameter names of `forward`, in its order."""
    names = forward_parameters(model)
    if isinstance(inputs, Mapping):
        return {
            name: inputs[name] for name in sorted(inputs, key=lambda n: names.index(n) if n in names else len(names))
        }
    values = (inputs,) if isinstance(inputs, torch.Tensor) else tuple(inputs)
    if len(values) > len(names):
        raise UsageError(
            f"`forward` of {type(model).__name__} names {len(names)} inputs, and {len(values)} were given",
            "leave some out; instead of `*args`, let `forward` name its inputs",
        )
    return dict(zip(names, values, strict=False))


def forward_parameters(model: nn.Module) -> list[str]:
    """Return the names of `forward`'s parameters; if a wrapper takes anything, those of the module in it."""
    parameters = forward_signature(model).parameters.values()
    inside = list(model.children())
    if len(inside) == 1 and [p.kind for p in parameters] == [Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD]:
        return forward_parameters(inside[0])
    return [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def forward_signature(model: nn.Module) -> inspect.Signature:
    """Return the signature of `forward`; a ScriptModule has a schema, and one that was made by tracing only this."""
    forward: Any = model.forward
    if not isinstance(model, torch.jit.ScriptModule):
        return inspect.signature(forward)
    return inspect.Signature(
        [
            Parameter(
                argument.name,
                Parameter.POSITIONAL_OR_KEYWORD,
                default=argument.default_value if argument.has_default_value() else Parameter.empty,
            )
            for argument in forward.schema.arguments[1:]
        ]
    )
