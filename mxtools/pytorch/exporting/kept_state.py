"""State that a model keeps from one run to the next, such as the hidden state of a recurrent model in a buffer.

No graph keeps it: each run begins with the state in which the model was exported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from mxtools.pytorch.fingerprint import array_of
from mxtools.pytorch.nested import tensors
from mxtools.runtime.distance import distance

_OWN = vars(nn.Module()).keys()
"""The attributes that every module has."""
_EQUAL = 1e-6
"""Largest difference, relative to the largest value, of two runs without a state between them."""

_Held = dict[str, tuple[torch.Tensor, int]]


def kept_state(model: nn.Module, run: Callable[[], Any]) -> tuple[Any, tuple[str, ...]]:
    """Run a model; return its results, and the names of the tensors by which it will return others in its next run.

    Only a model whose attributes have changed is run once more. Most of these models only build a table in their first
    run, or keep features for somebody else, and return the same again.
    """
    before = _held(model)
    result = run()
    after = _held(model)
    if not _changed(before, after):
        return result, ()
    first = [tensor.detach().clone() for _, tensor in tensors(result)]
    again = [tensor for _, tensor in tensors(run())]
    alike = len(first) == len(again) and all(map(_alike, again, first))
    return result, () if alike else _changed(after, _held(model))


def _held(model: nn.Module) -> _Held:
    """Return the tensors that modules hold, by name, each with the number of changes made to it in place.

    The tensors are kept, so none that is made later can have the identity of an earlier one.
    """
    return {name: (t, 0 if t.is_inference() else t._version) for name, t in _attributes(model)}


def _attributes(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        own = {name: value for name, value in vars(module).items() if name not in _OWN}
        for name, value in (*module.named_buffers(prefix="", recurse=False), *own.items()):
            yield from tensors(value, f"{prefix}{name}")


def _changed(before: _Held, after: _Held) -> tuple[str, ...]:
    """Return the names of tensors that were put in the place of others, or changed in place."""
    unknown = (None, 0)
    return tuple(
        name
        for name, (tensor, version) in after.items()
        if (known := before.get(name, unknown))[0] is not tensor or known[1] != version
    )


def _alike(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    return found.shape == wanted.shape and distance(array_of(found), array_of(wanted)).relative <= _EQUAL
