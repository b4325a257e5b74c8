"""Small models of other libraries than transformers, with random weights; `world.py` runs this where they are."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

Made = tuple[nn.Module, Any]
"""A module, and inputs as its forward takes them."""

OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "roi_align(Tensor input, Tensor rois, float spatial_scale, int pooled_height, int pooled_width, int sampling_ratio,"
    " bool aligned) -> Tensor",
    "roi_pool(Tensor input, Tensor rois, float spatial_scale, int pooled_height, int pooled_width) -> (Tensor, Tensor)",
    "ps_roi_align(Tensor input, Tensor rois, float spatial_scale, int pooled_height, int pooled_width,"
    " int sampling_ratio) -> (Tensor, Tensor)",
    "ps_roi_pool(Tensor input, Tensor rois, float spatial_scale, int pooled_height, int pooled_width)"
    " -> (Tensor, Tensor)",
    "deform_conv2d(Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias, int stride_h, int stride_w,"
    " int pad_h, int pad_w, int dilation_h, int dilation_w, int groups, int offset_groups, bool use_mask) -> Tensor",
)
"""torchvision's own operators. Its wheel is built for CUDA, and beside a CPU build of PyTorch they do not load.

Declared without an implementation, they do for all models that do not use them.
"""

_library: list[torch.library.Library] = []


def declare_operators() -> None:
    """Declare torchvision's operators, once, which it and all that imports it expect to be there."""
    if not _library and not torch.cuda.is_available():
        _library.append(torch.library.Library("torchvision", "DEF"))
        for schema in OPERATORS:
            name = schema.partition("(")[0]
            _library[0].define(schema)
            _library[0].define(f"_{name}_backward{schema.removeprefix(name)}")  # torchvision names them as well


def draw(module: nn.Module) -> None:
    """Give a module weights and statistics that no other has, so that none equals another or changes nothing.

    What is added to a matrix has a mean of zero and less weight the more inputs are summed, or values would grow from
    layer to layer, until all are infinite.
    """
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                summed = math.prod(tensor.shape[1:])
                added = torch.rand(tensor.shape, generator=generator) - (0.5 if summed > 1 else 0.0)
                tensor.add_(added.to(tensor.dtype) * (0.1 if summed <= 1 else summed**-0.5))
    module.eval()


def image(size: int = 64, batch: int = 1) -> torch.Tensor:
    """Return an image of three channels."""
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))


def tokens(length: int = 6, count: int = 50) -> torch.Tensor:
    """Return the numbers of some tokens."""
    return torch.randint(1, count, (1, length), generator=torch.Generator().manual_seed(0))


def _torchvision(name: str) -> Callable[[], Made]:
    def make() -> Made:
        from torchvision import models

        return models.get_model(name, num_classes=4), image()

    return make


def _timm(name: str, size: int = 64, **options: int) -> Callable[[], Made]:
    def make() -> Made:
        import timm

        return timm.create_model(name, num_classes=4, **options), image(size)

    return make


def _unet() -> Made:
    from diffusers import UNet2DModel

    channels = {"block_out_channels": (8, 16), "norm_num_groups": 4, "layers_per_block": 1}
    blocks = {
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    }
    model = UNet2DModel(sample_size=16, attention_head_dim=8, **channels, **blocks)
    return model, {"sample": image(16), "timestep": torch.tensor([3]), "return_dict": False}


def _autoencoder() -> Made:
    from diffusers import AutoencoderKL

    model = AutoencoderKL(block_out_channels=(8, 16), norm_num_groups=4, latent_channels=2, **_VAE_BLOCKS)
    return model, {"sample": image(16), "return_dict": False}


_VAE_BLOCKS: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "layers_per_block": 1,
}


def _transformer2d() -> Made:
    from diffusers import DiTTransformer2DModel

    model = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=3, num_layers=2, sample_size=8, norm_num_groups=4
    )
    given = {"hidden_states": image(8), "timestep": torch.tensor([3]), "class_labels": torch.tensor([1])}
    return model, {**given, "return_dict": False}


def _bert_config() -> Any:  # noqa: ANN401 - transformers is untyped
    from transformers import BertConfig

    return BertConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, vocab_size=60)


def _bert() -> Made:
    from transformers import BertModel

    return BertModel(_bert_config()), {"input_ids": tokens(), "attention_mask": torch.ones(1, 6, dtype=torch.int64)}


def _lora() -> Made:
    from peft import LoraConfig, get_peft_model
    from transformers import BertModel

    model = get_peft_model(BertModel(_bert_config()), LoraConfig(r=2, target_modules=["query", "value"]))
    return model, {"input_ids": tokens(), "attention_mask": torch.ones(1, 6, dtype=torch.int64)}


def _clip() -> Made:
    from open_clip import CLIP, CLIPTextCfg, CLIPVisionCfg

    vision = CLIPVisionCfg(layers=2, width=16, head_width=8, patch_size=8, image_size=32)
    text = CLIPTextCfg(context_length=6, vocab_size=60, width=16, heads=2, layers=2)
    return CLIP(8, vision, text), {"image": image(32), "text": tokens()}


def _segmentation(name: str) -> Callable[[], Made]:
    def make() -> Made:
        import segmentation_models_pytorch as segmentation

        return segmentation.create_model(name, encoder_name="resnet18", encoder_weights=None, classes=2), image()

    return make


def _sentences() -> Made:
    from sentence_transformers import models
    from transformers import BertModel

    class Sentences(nn.Module):
        """A model and its pooling, as SentenceTransformer runs them, with tensors as inputs."""

        def __init__(self) -> None:
            super().__init__()
            self.bert = BertModel(_bert_config())
            self.pooling = models.Pooling(16)
            self.normalize = models.Normalize()

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            embeddings = self.bert(input_ids, attention_mask).last_hidden_state
            pooled = self.pooling({"token_embeddings": embeddings, "attention_mask": attention_mask})
            found: torch.Tensor = self.normalize(pooled)["sentence_embedding"]
            return found

    return Sentences(), {"input_ids": tokens(), "attention_mask": torch.ones(1, 6, dtype=torch.int64)}


def _vit() -> Made:
    from vit_pytorch import ViT

    return ViT(image_size=32, patch_size=8, num_classes=4, dim=16, depth=2, heads=2, mlp_dim=32), image(32)


MODELS: dict[str, dict[str, Callable[[], Made]]] = {
    "torchvision": {
        name: _torchvision(name)
        for name in ("resnet18", "mobilenet_v3_small", "densenet121", "efficientnet_b0", "swin_t", "convnext_tiny")
    },
    "timm": {
        "resnetv2_50": _timm("resnetv2_50"),
        "vit_tiny_patch16_224": _timm("vit_tiny_patch16_224", img_size=64, depth=3),
        "efficientvit_b0": _timm("efficientvit_b0"),
        "mobilenetv4_conv_small": _timm("mobilenetv4_conv_small"),
        "mixer_s16_224": _timm("mixer_s16_224", size=224),
    },
    "diffusers": {"UNet2DModel": _unet, "AutoencoderKL": _autoencoder, "DiTTransformer2DModel": _transformer2d},
    "transformers": {"BertModel": _bert},
    "open_clip": {"CLIP": _clip},
    "peft": {"LoRA on BertModel": _lora},
    "segmentation_models_pytorch": {name: _segmentation(name) for name in ("Unet", "FPN", "DeepLabV3Plus")},
    "sentence_transformers": {"BertModel, Pooling, Normalize": _sentences},
    "vit_pytorch": {"ViT": _vit},
}
DISTRIBUTIONS = {"open_clip": "open_clip_torch"}
"""The names of packages where they differ from those of the libraries."""
