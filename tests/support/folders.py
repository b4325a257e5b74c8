"""Hugging Face folders of small models, made from their configurations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 100,
    "d_model": 32,
    "num_layers": 1,
    "num_heads": 4,
    "d_ff": 64,
    "d_kv": 8,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 0,
}


def folder_of(path: Path, model_type: str, architecture: str, **extra: Any) -> Path:
    """Save a small random model of an architecture, of the same weights in every run, and return its folder."""
    torch.manual_seed(0)
    config_class = transformers.CONFIG_MAPPING[model_type]
    known = config_class().to_dict()
    config = config_class(**{k: v for k, v in SMALL.items() if k in known} | extra)
    getattr(transformers, architecture)(config).save_pretrained(path / model_type)
    return path / model_type
