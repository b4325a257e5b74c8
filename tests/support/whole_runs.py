"""What every module of PyTorch is given and returns."""

from __future__ import annotations

from typing import Any


def inputs_of(spec: str) -> dict[str, Any]:
    """Return the inputs of a model in PyTorch, as arrays by name."""
    from mxtools.pytorch.loading.inputs import load_subject
    from mxtools.pytorch.nested import tensors

    return {name: tensor.numpy() for name, tensor in tensors(load_subject(spec).inputs)}


def returned_by_module(spec: str) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """Return what each module returned in its first call, by path, and the inputs, as arrays."""
    import torch

    from mxtools.pytorch.loading.inputs import load_subject
    from mxtools.pytorch.nested import tensors

    subject = load_subject(spec)
    returned: dict[str, list[Any]] = {}

    def note(name: str, result: Any) -> None:
        returned.setdefault(name, [tensor.clone().numpy() for _, tensor in tensors(result)])

    for name, module in subject.model.named_modules():
        module.register_forward_hook(lambda _module, _inputs, result, name=name or ".": note(name, result))
    with torch.no_grad():
        subject.model(**subject.inputs)
    return returned, {name: t.numpy() for name, t in tensors(subject.inputs)}
