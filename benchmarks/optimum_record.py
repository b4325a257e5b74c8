"""Record what the modules of a Hugging Face model return, in the environment that Optimum runs in.

    python benchmarks/optimum_record.py FOLDER INPUTS.safetensors OUTPUT.safetensors

`optimum_files.py` runs this. It is PyTorch's word on what a module returns: by the version of transformers whose code
was exported, and by hooks of its own, so without mxtools. INPUTS are those of the exported file, by its names. OUTPUT
has for each module `PATH:in:N` and `PATH:out:N`, the tensors of its first call.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

PAST = "past_key_values"
ENCODED = "encoder_hidden_states"


def main(folder: str, inputs: str, output: str) -> None:
    """Run a model, and write what its modules were given and returned."""
    config = transformers.AutoConfig.from_pretrained(folder)
    model = getattr(transformers, config.architectures[0]).from_pretrained(folder).eval()
    given = load_file(inputs)
    called: Any = model
    if config.is_encoder_decoder:
        is_encoder = ENCODED not in given and not any(name.startswith(PAST) for name in given)
        called = model.get_encoder() if is_encoder else model
        given = given if is_encoder else _decoder_arguments(given, config.hidden_size)
    recorder = Recorder(called)
    with torch.no_grad():
        called(**_with_cache(given))
    save_file(recorder.found, output)


class Recorder:
    """Keeps what the first call of each module was given and returned, under the names by which its caller knows it."""

    def __init__(self, model: nn.Module) -> None:
        """Register the hooks; the names begin at `model`."""
        self.found: dict[str, Tensor] = {}
        self._running: list[list[str]] = []
        for module in model.modules():
            names = [name for name, other in model.named_modules(remove_duplicate=False) if other is module]
            module.register_forward_pre_hook(self._entering(names))
            module.register_forward_hook(self._leave, with_kwargs=True)

    def _entering(self, names: list[str]) -> Any:  # noqa: ANN401 - a hook
        def enter(*_: object) -> None:
            """Note which of a module's names are below those of its caller."""
            around = self._running[-1] if self._running else [""]
            below = [n for n in names if any(n.startswith(f"{a}.") or not a for a in around)]
            self._running.append(below or names)

        return enter

    def _leave(self, _: nn.Module, args: Any, kwargs: Any, result: Any) -> None:  # noqa: ANN401 - a hook
        for name in self._running.pop():
            path = name or "."
            if not any(f"{path}:{way}:0" in self.found for way in ("in", "out")):
                for way, values in (("in", (args, kwargs)), ("out", result)):
                    for place, tensor in enumerate(_tensors(values)):
                        self.found[f"{path}:{way}:{place}"] = tensor.detach().clone().contiguous()


def _tensors(value: Any) -> list[Tensor]:  # noqa: ANN401 - any nesting
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [tensor for item in value.values() for tensor in _tensors(item)]
    return [tensor for item in value for tensor in _tensors(item)] if isinstance(value, (tuple, list)) else []


def _decoder_arguments(given: dict[str, Tensor], size: int) -> dict[str, Any]:
    """Return the arguments of the whole model for the inputs of a decoder's file."""
    mask = given["encoder_attention_mask"]
    encoded = given.get(ENCODED, torch.zeros(*mask.shape, size))  # of which with a past only the shape is read
    return {
        "decoder_input_ids": given["input_ids"],
        "attention_mask": mask,
        "encoder_outputs": BaseModelOutput(last_hidden_state=encoded),
        **{name: tensor for name, tensor in given.items() if name.startswith(PAST)},
    }


def _with_cache(given: dict[str, Any]) -> dict[str, Any]:
    """Return arguments with the tensors of a past in a cache."""
    past = {name: given[name] for name in given if name.startswith(PAST)}
    others = {name: value for name, value in given.items() if name not in past}
    if not past:
        return others
    sides = {name.split(".")[2] for name in past} & {"decoder", "encoder"}
    caches = {side: _cache(past, f"{side}.") for side in sides} or {"": _cache(past, "")}
    cache = EncoderDecoderCache(caches["decoder"], caches["encoder"]) if sides else caches[""]
    return {**others, PAST: cache}


def _cache(past: dict[str, Tensor], side: str) -> DynamicCache:
    cache = DynamicCache()
    for layer in sorted({int(re.split(r"\.", name)[1]) for name in past}):
        cache.update(*(past[f"{PAST}.{layer}.{side}{kind}"] for kind in ("key", "value")), layer)
    return cache


if __name__ == "__main__":
    main(*sys.argv[1:])
