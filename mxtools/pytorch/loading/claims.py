"""What the configuration of a Hugging Face model claims, compared with the size of its weights.

A configuration of some bytes can claim a million layers, or a vocabulary of a billion words. The library builds all
this before it looks at the weights, so the claims are counted while it builds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as hooks

from mxtools.files.limits import MODULES, PARAMETERS

_COUNTS = re.compile(r"layer|depth|blocks|stages|experts")
"""Keys with the number of something that consists of modules; so lists of this length exist before any module does."""
_WEIGHTS = ("*.safetensors", "*.bin")


def check_counts(config: Any, size: int, key: str = "") -> None:  # noqa: ANN401 - JSON
    """Raise LimitError if a configuration claims more layers than a model with weights of `size` bytes may have."""
    if isinstance(config, dict):
        for name, value in config.items():
            check_counts(value, size, name)
    elif isinstance(config, list):
        for value in config:
            check_counts(value, size, key)
    elif isinstance(config, int) and _COUNTS.search(key):
        MODULES.check(config, f"a model of {key} = {config}", size)


@contextmanager
def counted(folder: Path, size: int) -> Iterator[None]:
    """Inside the block, limit the number and size of modules to what weights of `size` bytes allow.

    Raises LimitError beyond that. Something that is set again, as when weights are loaded, counts once.
    """
    modules, owned = 0, set[tuple[int, str]]()
    total = 0

    def module_made(*_: object) -> None:
        nonlocal modules
        modules += 1
        MODULES.check(modules, f"the model that {folder} describes", size)

    def tensor_made(module: nn.Module, name: str, tensor: Tensor | None) -> None:
        nonlocal total
        if tensor is not None and (id(module), name) not in owned:
            owned.add((id(module), name))
            total += tensor.numel() * tensor.element_size()
            PARAMETERS.check(total, f"the model that {folder} describes", size)

    handles = (
        hooks.register_module_module_registration_hook(module_made),
        hooks.register_module_parameter_registration_hook(tensor_made),
        hooks.register_module_buffer_registration_hook(tensor_made),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def bytes_of_weights(folder: Path) -> int:
    """Return the size of those files in a folder that may contain weights."""
    return sum(path.stat().st_size for pattern in _WEIGHTS for path in folder.glob(pattern) if path.is_file())
