"""Find the tensors in nested arguments and results, and name them by their places."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch


def tensors(
    value: Any,  # noqa: ANN401 - any nesting
    name: str = "",
    around: tuple[object, ...] = (),
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors of nested mappings, sequences and dataclasses in order, each with its place: `past.0.key`.

    `around` are the containers around the value: one that holds itself is not entered again.
    """
    if isinstance(value, torch.Tensor):
        yield name or "0", value
    elif not any(value is outer for outer in around):
        for key, item in _items(value):
            yield from tensors(item, f"{name}.{key}" if name else str(key), (*around, value))


def _items(value: Any) -> Iterator[tuple[object, Any]]:  # noqa: ANN401
    """Yield what a container holds, each with its key, index or field; nothing of other values."""
    if isinstance(value, Mapping):
        yield from value.items()
    elif isinstance(value, (list, tuple)):
        yield from enumerate(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield field.name, getattr(value, field.name, None)
