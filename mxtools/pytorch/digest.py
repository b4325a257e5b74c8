"""The digest of a subject: equal digests mean that traces and exports would be equal too."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from mxtools.pytorch.fingerprint import elements
from mxtools.pytorch.nested import tensors
from mxtools.pytorch.subject import Subject
from mxtools.strategies.cache import versions


def digest(subject: Subject) -> str:
    """Return 32 hexadecimal digits that stand for a model's code, configuration, weights, inputs and the packages.

    The code is that of the files that define the modules' classes, but not of files that these import.
    """
    state = blake2b(digest_size=16)
    for part in _parts(subject):
        state.update(part if isinstance(part, bytes) else part.encode() + b"\0")
    return state.hexdigest()


def _parts(subject: Subject) -> Iterator[str | bytes]:
    yield from versions()
    yield type(subject.interface).__name__
    for path, module in subject.model.named_modules(remove_duplicate=False):
        yield f"{path} {type(module).__module__}.{type(module).__qualname__} {module.extra_repr()}"
        yield from _settings(module)
        yield from _generated(module)
    for file in sorted({_file(type(module)) for module in subject.model.modules()}):
        yield _content(file)
    named = (
        *subject.model.named_parameters(remove_duplicate=False),
        *subject.model.named_buffers(remove_duplicate=False),
    )
    packed = {name: value for name, value in subject.model.state_dict().items() if not isinstance(value, torch.Tensor)}
    for name, tensor in (*named, *tensors(packed), *tensors(subject.inputs)):
        yield f"{name} {tensor.dtype} {None if is_lazy(tensor) or tensor.is_nested else tuple(tensor.shape)}"
        yield _bytes(tensor)


def _settings(module: nn.Module) -> Iterator[str]:
    """Yield a module's plain attributes, and its configuration."""
    for name, value in sorted(vars(module).items()):
        if isinstance(value, (bool, int, float, str, tuple)) and name != "training":
            yield f"{name}={value!r}"
    config: Any = getattr(module, "config", None)
    if hasattr(config, "to_json_string"):
        yield str(config.to_json_string())


def _generated(module: nn.Module) -> Iterator[str | bytes]:
    """Yield a module's code that is in no file: torch.fx's, and torch.jit's with everything in it."""
    if isinstance(module, torch.fx.GraphModule):
        yield module.code
    if isinstance(module, torch.jit.ScriptModule):
        yield module.save_to_buffer()


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
    """Return a tensor's elements as bytes; if it has no plain elements (as when sparse), what torch saves of it."""
    if is_lazy(tensor):
        return b""
    plain = elements(tensor)
    if plain is not None and not plain.is_complex():
        return plain.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    saved = BytesIO()
    with suppress(Exception):  # fake tensors and the like, which have no elements
        torch.save(tensor, saved)
    return saved.getvalue()
