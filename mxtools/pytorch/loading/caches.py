"""Key-value caches as inputs and outputs of a graph, with the names of Optimum and ONNX Runtime's GenAI.

    past_key_values.0.key, past_key_values.0.value, …                  of a decoder
    past_key_values.0.decoder.key, past_key_values.0.encoder.key, …    of a decoder that also has its encoder's

The caches of transformers are objects that a model changes while it runs. This file turns one into nested dictionaries
of its tensors, and such dictionaries into a cache of the same kind.
"""

from __future__ import annotations

import copy
import sys
from typing import Any

import torch

_NAMES = {"keys": "key", "values": "value"}
"""Names of attributes of a cache's layers; others, such as states of convolutions, keep their own names."""
_SIDES = {"decoder": "self_attention_cache", "encoder": "cross_attention_cache"}


def is_cache(value: object) -> bool:
    """Return whether a value is a cache of the transformers library; without that library there is none."""
    library = sys.modules.get("transformers.cache_utils")
    return library is not None and isinstance(value, library.Cache)


def opened(cache: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - transformers' Cache
    """Return the tensors of a cache, layer by layer."""
    if hasattr(cache, _SIDES["encoder"]):
        sides = {side: opened(getattr(cache, attribute)) for side, attribute in _SIDES.items()}
        return [{side: layers[i] for side, layers in sides.items()} for i in range(len(sides["decoder"]))]
    return [{_NAMES.get(name, name): tensor for name, tensor in _states(layer).items()} for layer in cache.layers]


def closed(like: Any, layers: list[dict[str, Any]]) -> Any:  # noqa: ANN401 - transformers' Cache
    """Return a cache of the same kind as another, with other tensors."""
    cache = copy.copy(like)
    if hasattr(cache, _SIDES["encoder"]):
        for side, attribute in _SIDES.items():
            setattr(cache, attribute, closed(getattr(like, attribute), [layer[side] for layer in layers]))
        cache.is_updated = dict(like.is_updated)
        return cache
    cache.layers = [copy.copy(layer) for layer in like.layers]
    for layer, tensors in zip(cache.layers, layers, strict=True):
        for name in _states(layer):
            setattr(layer, name, tensors[_NAMES.get(name, name)])
    return cache


def _states(layer: object) -> dict[str, torch.Tensor]:
    """Return the tensors that a layer of a cache keeps between steps, by attribute."""
    return {
        name: value
        for name, value in vars(layer).items()
        if isinstance(value, torch.Tensor) and value.dim() and not name.startswith("_")
    }
