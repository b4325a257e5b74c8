"""Find the tensors in nested arguments and results, and name them by their places."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch


def tensors(value: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:  # noqa: ANN401 - any nesting
    """Yield the tensors of nested mappings, sequences and dataclasses in order, each with its place: `past.0.key`."""
    if isinstance(value, torch.Tensor):
        yield name or "0", value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from tensors(item, _below(name, key))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from tensors(item, _below(name, index))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from tensors(getattr(value, field.name), _below(name, field.name))


def _below(name: str, part: object) -> str:
    return f"{name}.{part}" if name else str(part)
