"""Models of the example fleet: small, seeded and random, of many architectures; `models.py:NAME`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor, nn

Built = tuple[nn.Module, dict[str, Any]]

TOKENS = 200
TEXT = {
    "vocab_size": TOKENS,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}
IMAGE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}


class UNet(nn.Module):
    """Two levels that meet again, with one activation for all places."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.middle = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.up, self.out = nn.ConvTranspose2d(16, 8, 2, stride=2), nn.Conv2d(16, 3, 1)
        self.norm, self.act = nn.BatchNorm2d(8), nn.SiLU()

    def forward(self, image: Tensor) -> Tensor:
        """Return an image of the same size."""
        high = self.act(self.norm(self.down(image)))
        low = self.act(self.up(self.act(self.middle(high))))
        return self.out(torch.cat([high, low], 1))


def _seeded(make: Callable[[], nn.Module]) -> nn.Module:
    """Return a module with weights and statistics that no other tensor equals by chance."""
    torch.manual_seed(0)
    module = make().eval()
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor) * 0.05)
    return module


def _hugging_face(name: str, kind: Callable[[], dict[str, Tensor]], **settings: object) -> Callable[[], Built]:
    def make() -> Built:
        cls = getattr(transformers, name)
        return _seeded(lambda: cls(cls.config_class(**settings))), kind()

    return make


def _ids(length: int = 12) -> Tensor:
    return torch.randint(3, TOKENS, (1, length), generator=torch.Generator().manual_seed(1))


def _text() -> dict[str, Tensor]:
    """Return tokens, the last of which are padding: a mask that hides nothing changes nothing, so a bias equals it."""
    return {"input_ids": _ids(), "attention_mask": (torch.arange(12) < 10).long()[None]}


def _pair() -> dict[str, Tensor]:
    return {**_text(), "decoder_input_ids": _ids(7)}


def _image() -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(2))}


def _unet() -> Built:
    return _seeded(UNet), {"image": _image()["pixel_values"]}


zoo: dict[str, Callable[[], Built]] = {
    "albert": _hugging_face("AlbertModel", _text, **TEXT, embedding_size=16),
    "bert": _hugging_face("BertModel", _text, **TEXT),
    "gpt2": _hugging_face(
        "GPT2Model", _text, vocab_size=TOKENS, n_positions=64, n_embd=32, n_layer=2, n_head=4, use_cache=False
    ),
    "llama": _hugging_face("LlamaModel", _text, **TEXT, num_key_value_heads=2, use_cache=False),
    "resnet": _hugging_face(
        "ResNetModel", _image, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"
    ),
    "t5": _hugging_face(
        "T5Model", _pair, vocab_size=TOKENS, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, use_cache=False
    ),
    "unet": _unet,
    "vit": _hugging_face("ViTModel", _image, **IMAGE),
}
