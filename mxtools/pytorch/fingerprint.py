"""Fingerprints of tensors: a few numbers that do not depend on the order of the elements."""

from __future__ import annotations

import torch

from mxtools.graph.fingerprints import Fingerprint
from mxtools.graph.shapes import Array

BLOCK = 1 << 18
"""Elements in a block: few enough to stay in the CPU's cache for all its sums, and to need no large copy."""


def unwrapped(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor inside those that `torch.vmap`, `torch.func.grad` and the like hand to a function.

    If it is a batch, this is the whole batch: the function sees one row, but an exported graph computes all rows.
    """
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor


def version(tensor: torch.Tensor) -> int:
    """Return how often a tensor was changed in place; 0 for tensors of inference mode, which do not count that."""
    return 0 if tensor.is_inference() else tensor._version


def elements(tensor: torch.Tensor) -> torch.Tensor | None:
    """Return a tensor's elements as a plain tensor that shares its memory.

    None for sparse, quantised, nested, meta and fake tensors, and for tensors with a class of their own, such as the
    shards of a distributed tensor.
    """
    tensor = unwrapped(tensor)
    if tensor.is_meta or tensor.is_quantized or tensor.is_nested or tensor.layout != torch.strided:
        return None
    with torch._C.DisableTorchFunction():
        plain = tensor.detach()
    return plain if type(plain) is torch.Tensor else None


def fingerprint(tensor: torch.Tensor) -> Fingerprint | None:
    """Return count, minimum, maximum, sum and sum of squares of a tensor's finite elements.

    Each block is summed in the tensor's own precision, at least float32, and the sums of blocks in float64. None for
    tensors without plain elements, and for types with which torch cannot calculate: complex ones, and packed ones such
    as uint4.
    """
    plain = elements(tensor)
    if plain is None or not plain.numel():
        return None if plain is None else (0, 0.0, 0.0, 0.0, 0.0)
    if plain.is_complex():
        return None
    try:
        with torch._C.DisableTorchFunction():
            flat = plain.cpu().reshape(-1)
            low, high, total, squares = zip(*(_block(part) for part in torch.split(flat, BLOCK)), strict=True)
    except NotImplementedError:
        return None
    return (flat.numel(), min(low), max(high), sum(total), sum(squares))


def equal_in_order(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Return whether two tensors with fingerprints and equally many elements have the same ones in the same order.

    Shape and type do not matter.
    """
    with torch._C.DisableTorchFunction():
        a, b = (unwrapped(tensor).detach().cpu().reshape(-1).to(torch.float64) for tensor in (one, other))
        return bool(((a == b) | (a.isnan() & b.isnan())).all())


def array_of(tensor: torch.Tensor) -> Array:
    """Return a tensor as an array; floats that numpy lacks, such as bfloat16, become float32."""
    is_numpys = not tensor.is_floating_point() or tensor.dtype in (torch.float16, torch.float32, torch.float64)
    return (tensor if is_numpys else tensor.float()).detach().cpu().numpy()


def _block(part: torch.Tensor) -> tuple[float, float, float, float]:
    if part.dtype != torch.float32:
        part = part.to(torch.float64) if part.dtype != torch.bool else part.to(torch.float32)
    squares = float(torch.dot(part, part))
    if squares != squares or squares == float("inf"):
        part = part[part.isfinite()].to(torch.float64)
        if not part.numel():
            return (0.0, 0.0, 0.0, 0.0)
        squares = float(torch.dot(part, part))
    low, high = torch.aminmax(part)
    return (float(low), float(high), float(part.sum()), squares)
