"""The digest of a subject: equal digests mean that traces and exports would be equal too."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mxtools.pytorch.nested import tensors
from mxtools.pytorch.subject import Subject
from mxtools.strategies.cache import versions


def digest(subject: Subject) -> str:
    """Return 32 hexadecimal digits that stand for a model's code, configuration, weights, inputs and the packages.

    The code is that of the files that define the modules' classes; files that these import are not looked at.
    """
    state = blake2b(digest_size=16)
    for part in _parts(subject):
        state.update(part if isinstance(part, bytes) else part.encode() + b"\0")
    return state.hexdigest()


def _parts(subject: Subject) -> Iterator[str | bytes]:
    yield from versions()
    for path, module in subject.model.named_modules(remove_duplicate=False):
        yield f"{path} {type(module).__module__}.{type(module).__qualname__} {module.extra_repr()}"
        yield from _settings(module)
    for file in sorted({_file(type(module)) for module in subject.model.modules()}):
        yield _content(file)
    named = (
        *subject.model.named_parameters(remove_duplicate=False),
        *subject.model.named_buffers(remove_duplicate=False),
    )
    for name, tensor in (*named, *tensors(subject.inputs)):
        yield f"{name} {tensor.dtype} {tuple(tensor.shape)}"
        yield _bytes(tensor)


def _settings(module: nn.Module) -> Iterator[str]:
    """Yield a module's plain attributes, and its configuration."""
    for name, value in sorted(vars(module).items()):
        if isinstance(value, (bool, int, float, str, tuple)) and name != "training":
            yield f"{name}={value!r}"
    config: Any = getattr(module, "config", None)
    if hasattr(config, "to_json_string"):
        yield str(config.to_json_string())


def _file(kind: type) -> str:
    try:
        return inspect.getsourcefile(kind) or ""
    except (TypeError, OSError):
        return ""


@cache
def _content(file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError:
        return b""


def _bytes(tensor: torch.Tensor) -> bytes:
    """Return a tensor's elements as bytes; empty for tensors without plain elements."""
    if tensor.is_meta or tensor.layout != torch.strided:
        return b""
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
