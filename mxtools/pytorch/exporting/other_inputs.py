"""Inputs with which the model was not exported: with other values, and with other sizes if axes are dynamic.

They are made from the given ones, deterministically, so that they suit any model: ids are ids that were there, floats
have the same magnitude or a multiple of it, and a mask of ones gets a zero at its end, as if for padding. A model need
not accept them all. Inputs that it refuses say nothing, so each kind has a plainer choice for this case.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch

from mxtools.pytorch.exporting.exporters import Axes
from mxtools.pytorch.nested import mapped, tensors

_STRIDE = 7
"""Every so many elements of the given tensor make one of another size, so neighbours differ, and so do rows."""
_FEWER = 3
"""How much shorter a sequence becomes: fewer positions are always allowed, more are not."""
_SCALE = 8.0
"""How much larger and smaller floats become; a power of two, so that nothing is rounded."""


@dataclass(frozen=True)
class Trial:
    """Inputs of a kind, which is given in words; the first of the `choices` that the model accepts counts."""

    kind: str
    choices: tuple[dict[str, Any], ...]


def trials(inputs: dict[str, Any], axes: Axes, steps: Mapping[str, int] | None = None) -> Iterator[Trial]:
    """Yield the given inputs, others of the same sizes, and others of other sizes if the axes let them vary.

    Floats are also scaled, since a model may decide by a magnitude, which is the same for negated ones.

    `steps` are further sizes to try, by symbol: a decoder with a cache takes one token at a time.
    """
    yield Trial("the example inputs", (inputs,))
    others = mapped(inputs, lambda _, tensor: _other(tensor))
    floats = mapped(inputs, lambda _, tensor: _other(tensor) if tensor.is_floating_point() else tensor)
    yield Trial("other values", (others, floats))
    if any(tensor.is_floating_point() for _, tensor in tensors(inputs)):
        yield Trial("larger values", (_scaled(inputs, _SCALE),))
        yield Trial("smaller values", (_scaled(inputs, 1 / _SCALE),))
    sizes = sizes_of(inputs, axes)
    if not sizes:
        return
    for wanted in (changed_sizes(sizes), sizes | dict(steps)) if steps else (changed_sizes(sizes),):
        words = ", ".join(f"{symbol} {size}" for symbol, size in wanted.items())
        yield Trial(f"other sizes ({words})", tuple(resized(inputs, axes, wanted, stride) for stride in (_STRIDE, 1)))


def _scaled(inputs: dict[str, Any], factor: float) -> dict[str, Any]:
    scaled: dict[str, Any] = mapped(inputs, lambda _, tensor: tensor * factor if tensor.is_floating_point() else tensor)
    return scaled


def _other(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor of the same size with other values: floats negated, elements in reverse order, masks padded."""
    if not tensor.numel():
        return tensor
    if tensor.is_floating_point() or tensor.is_complex():
        return -tensor
    if tensor.dtype == torch.bool:
        return (
            ~tensor if bool((tensor == tensor.flatten()[0]).all()) else tensor.flatten().flip(0).reshape(tensor.shape)
        )
    if bool((tensor == tensor.flatten()[0]).all()):
        other = tensor.clone()
        other.view(-1)[-1] = max(int(tensor.flatten()[0]) - 1, 0)
        return other
    if not ((tensor != 0) & (tensor != 1)).any():
        return _padded_more(tensor)
    return tensor.flatten().flip(0).reshape(tensor.shape)


def _padded_more(mask: torch.Tensor) -> torch.Tensor:
    """Return a mask of zeros and ones whose last one is a zero too.

    In reverse order, it could hide all that the first token may attend to. What such a token yields is arbitrary.
    """
    other = mask.flatten().clone()
    other[other.nonzero()[-1]] = 0
    return other.reshape(mask.shape)


def sizes_of(inputs: dict[str, Any], axes: Axes) -> dict[str, int]:
    """Return the given size of each symbol; sums of symbols follow from their parts."""
    known = dict(tensors(inputs))
    return {
        symbol: known[name].shape[axis]
        for name, symbols in axes.items()
        for axis, symbol in symbols.items()
        if "+" not in symbol and name in known
    }


def changed_sizes(sizes: Mapping[str, int]) -> dict[str, int]:
    """Return other sizes: two instead of one, so that nothing is broadcast by chance, otherwise fewer."""
    return {symbol: size - _FEWER if size > _FEWER else size + 1 for symbol, size in sizes.items()}


def resized(inputs: dict[str, Any], axes: Axes, sizes: Mapping[str, int], stride: int = 1) -> dict[str, Any]:
    """Return inputs of other sizes, with the elements of the given ones in another order."""

    def resize(name: str, tensor: torch.Tensor) -> torch.Tensor:
        """Return one of them."""
        shape = list(tensor.shape)
        for axis, symbol in axes.get(name, {}).items():
            parts = [part.strip() for part in symbol.split("+")]
            if all(part in sizes for part in parts):
                shape[axis] = sum(sizes[part] for part in parts)
        if shape == list(tensor.shape) or not tensor.numel():
            return tensor
        return tensor.flatten()[(torch.arange(prod(shape)) * stride) % tensor.numel()].reshape(shape)

    return dict(mapped(inputs, resize))
