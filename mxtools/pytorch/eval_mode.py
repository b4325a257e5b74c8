"""Put a model into the state in which it is traced and exported, and back into its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def settled(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode for a block, without gradients and key-value cache; restore all after it."""
    training = {module: module.training for module in model.modules()}
    configs = [c for c in _configs(model) if getattr(c, "use_cache", False)]
    random = torch.random.get_rng_state()
    model.eval()
    for config in configs:
        config.use_cache = False
    try:
        with torch.no_grad():
            yield
    finally:
        for config in configs:
            config.use_cache = True
        for module, mode in training.items():
            module.training = mode
        torch.random.set_rng_state(random)


def _configs(model: nn.Module) -> list[Any]:
    """Return the configurations of a Hugging Face model and its parts, each once."""
    found = {id(c): c for module in model.modules() if (c := getattr(module, "config", None)) is not None}
    return list(found.values())


def copied(value: Any) -> Any:  # noqa: ANN401 - any nesting of tensors
    """Return a copy of tensors in any nesting, so that a model which changes its inputs in place changes the copy."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return type(value)(copied(item) for item in value)
    return value
