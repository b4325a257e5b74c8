"""Put a model into the state in which it is traced and exported, and back into its own."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from torch import nn


@contextmanager
def settled(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode for a block, without gradients, key-value cache and compiled modules.

    After it modes, settings and random generators are as before. What the model's own code keeps, in buffers and other
    attributes, stays: half of it without the other half, a table without its size, would make it compute wrongly.
    """
    training = {module: mode for module in model.modules() if (mode := getattr(module, "training", None)) is not None}
    configs = [c for c in _configs(model) if getattr(c, "use_cache", False)]
    evaluate(model)
    for config in configs:
        config.use_cache = False
    try:
        with _random_kept(), _uncompiled(model), torch.no_grad():
            yield
    finally:
        for config in configs:
            config.use_cache = True
        if training.get(model):
            _switch(model, "train")  # undoes what the modules' own code did, as LoRA's that merges weights
        for module, mode in training.items():
            module.training = mode


def evaluate(module: nn.Module) -> None:
    """Put a module into evaluation mode, and those inside it."""
    _switch(module, "eval")


def _switch(module: nn.Module, mode: Literal["eval", "train"]) -> None:
    """Let a module go into a mode, and those inside it.

    Modules that torch.export made have no modes but the one in which they were made, and refuse.
    """
    try:
        getattr(module, mode)()
    except NotImplementedError:
        for child in module.children():
            _switch(child, mode)


@contextmanager
def _uncompiled(model: nn.Module) -> Iterator[None]:
    """Let modules that torch.compile compiled run as they are inside the block, because TorchScript refuses them.

    They were compiled by a wrapper, or in place by their method `compile`; nothing is where torch's compiler was not
    even imported, which takes a second.
    """
    modules = list(model.modules())
    wrapper = getattr(sys.modules.get("torch._dynamo"), "OptimizedModule", ())
    wrappers = [(module, module.forward) for module in modules if isinstance(module, wrapper)]
    in_place = [(module, compiled) for module in modules if (compiled := module._compiled_call_impl) is not None]
    for module, _ in wrappers:
        module.forward = module._orig_mod.__call__
    for module, _ in in_place:
        module._compiled_call_impl = None
    try:
        yield
    finally:
        for module, forward in wrappers:
            module.forward = forward
        for module, compiled in in_place:
            module._compiled_call_impl = compiled


@contextmanager
def _random_kept() -> Iterator[None]:
    """Restore the states of all random generators that a model's code may use after the block."""
    states = torch.random.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.random.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])


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
