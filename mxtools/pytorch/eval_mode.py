"""Put a model into the state in which it is traced and exported, and restore its own state afterwards."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from mxtools.pytorch.nested import mapped


@contextmanager
def settled(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode for a block, without gradients, key-value cache and compiled modules.

    Experts of transformers are computed by operations that can be exported.

    Afterwards, modes, settings and random generators are as before. What the model's own code keeps in buffers and
    other attributes stays: half of it without the other half, such as a table without its size, would make it compute
    wrongly.
    """
    training = {module: mode for module in model.modules() if (mode := getattr(module, "training", None)) is not None}
    configs = [c for c in _configs(model) if getattr(c, "use_cache", False)]
    evaluate(model)
    for config in configs:
        config.use_cache = False
    try:
        with _random_kept(), _uncompiled(model), _plain_experts(model), torch.no_grad():
            yield
    finally:
        for config in configs:
            config.use_cache = True
        if training.get(model):
            _switch(model, "train")  # undoes what the modules' own code did, such as LoRA's, which merges weights
        for module, mode in training.items():
            module.training = mode


def evaluate(module: nn.Module) -> None:
    """Put a module, and those inside it, into evaluation mode."""
    _switch(module, "eval")


def _switch(module: nn.Module, mode: Literal["eval", "train"]) -> None:
    """Switch a module, and those inside it, to a mode.

    Modules that torch.export made have only the mode in which they were made, and refuse.
    """
    try:
        getattr(module, mode)()
    except NotImplementedError:
        for child in module.children():
            _switch(child, mode)


@contextmanager
def _uncompiled(model: nn.Module) -> Iterator[None]:
    """Let modules that torch.compile compiled run uncompiled inside the block, because TorchScript refuses them.

    They were compiled by a wrapper, or in place by their method `compile`. If torch's compiler, which takes a second to
    import, was not even imported, nothing is compiled.
    """
    modules = list(model.modules())
    kind = getattr(sys.modules.get("torch._dynamo"), "OptimizedModule", None)
    wrappers = [module for module in modules if kind and type(module) is kind]
    compiled = [vars(module).pop("forward") for module in wrappers]
    in_place = [(module, call) for module in modules if (call := module._compiled_call_impl) is not None]
    for module in wrappers:
        object.__setattr__(module, "__class__", _plain_wrapper(type(module)))
    for module, _ in in_place:
        module._compiled_call_impl = None
    try:
        yield
    finally:
        for module, forward in zip(wrappers, compiled, strict=True):
            object.__setattr__(module, "__class__", kind)
            vars(module)["forward"] = forward
        for module, call in in_place:
            module._compiled_call_impl = call


@contextmanager
def _plain_experts(model: nn.Module) -> Iterator[None]:
    """Let the experts of transformers multiply by `batched_mm` inside the block.

    No exporter has operators for their usual `grouped_mm`. Both compute the same, up to rounding.
    """
    models: list[Any] = [m for m in model.modules() if hasattr(m, "get_experts_implementation")]  # of transformers
    chosen = [(each, each.get_experts_implementation()) for each in models]
    grouped = [(each, kinds) for each, kinds in chosen if "grouped_mm" in kinds.values()]
    for each, _ in grouped:
        each.set_experts_implementation("batched_mm")
    try:
        yield
    finally:
        for each, kinds in grouped:
            each.set_experts_implementation(kinds)


def _plain_wrapper(kind: type[nn.Module]) -> type[nn.Module]:
    """Return a class like the wrapper of torch.compile that just calls its module, as exporters must see it."""

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        return self._orig_mod(*args, **kwargs)

    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    return type(kind.__name__, (kind,), {"forward": forward, **names})


@contextmanager
def _random_kept() -> Iterator[None]:
    """After the block, restore the states of all random generators that a model's code may use."""
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
    """Return a copy of tensors in any nesting, so a model that changes its inputs in place changes only the copy."""
    return mapped(value, lambda _, tensor: tensor.detach().clone())
