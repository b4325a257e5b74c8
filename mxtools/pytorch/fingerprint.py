"""Fingerprints of tensors: a few numbers that do not depend on the order of the elements."""

from __future__ import annotations

import torch

from mxtools.graph.fingerprints import Fingerprint

BLOCK = 1 << 18
"""Elements in a block: few enough that it stays in the CPU's cache for all its sums, and that no large copy is made."""


def fingerprint(tensor: torch.Tensor) -> Fingerprint | None:
    """Return count, minimum, maximum, sum and sum of squares of a tensor's finite elements.

    Each block is summed in the tensor's own precision, at least float32, and the sums of blocks in float64. None for
    complex, quantised, sparse, meta and other tensors without plain elements.
    """
    if (
        tensor.is_meta
        or tensor.is_complex()
        or tensor.is_quantized
        or tensor.layout != torch.strided
        or not tensor.numel()
    ):
        return (0, 0.0, 0.0, 0.0, 0.0) if not tensor.numel() and not tensor.is_meta else None
    with torch._C.DisableTorchFunction():
        flat = tensor.detach().cpu().reshape(-1)
        low, high, total, squares = zip(*(_block(part) for part in torch.split(flat, BLOCK)), strict=True)
    return (flat.numel(), min(low), max(high), sum(total), sum(squares))


def equal_in_order(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Return whether two tensors of as many elements have equal ones in the same order, whatever shape and type."""
    with torch._C.DisableTorchFunction():
        a, b = (tensor.detach().cpu().reshape(-1).to(torch.float64) for tensor in (one, other))
        return bool(((a == b) | (a.isnan() & b.isnan())).all())


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
