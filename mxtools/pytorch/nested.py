"""Find the tensors in nested arguments and results, and name them by their places."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch


def tensors(
    value: Any,  # noqa: ANN401 - any nesting
    name: str = "",
    around: tuple[object, ...] = (),
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors in nested mappings, sequences and dataclasses in order, each with its place: `past.0.key`.

    In a named tuple, the place is the name of the field. `around` has the containers around the value: a container
    inside itself is not entered again.
    """
    if isinstance(value, torch.Tensor):
        yield name or "0", value
    elif not any(value is outer for outer in around):
        for key, item in _items(value):
            yield from tensors(item, _below(name, key), (*around, value))


def _items(value: Any) -> Iterator[tuple[object, Any]]:  # noqa: ANN401
    """Yield the items of a container, each with its key, index or field; nothing for other values."""
    if isinstance(value, Mapping):
        yield from value.items()
    elif isinstance(value, (list, tuple)):
        yield from zip(getattr(value, "_fields", range(len(value))), value, strict=True)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield field.name, getattr(value, field.name, None)


def _below(name: str, part: object) -> str:
    return f"{name}.{part}" if name else str(part)


def mapped(
    value: Any,  # noqa: ANN401 - any nesting
    change: Callable[[str, torch.Tensor], torch.Tensor],
    name: str = "",
) -> Any:  # noqa: ANN401
    """Return nested dictionaries, lists and tuples with their tensors changed; a tensor's place is as in `tensors`."""
    if isinstance(value, torch.Tensor):
        return change(name or "0", value)
    if isinstance(value, dict):
        return {key: mapped(item, change, _below(name, key)) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [mapped(item, change, _below(name, key)) for key, item in _items(value)]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value
