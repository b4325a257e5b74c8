"""Small models with random weights, for trying things out without a download."""

from __future__ import annotations

import filecmp
from enum import StrEnum
from pathlib import Path
from typing import Any

from mxtools.errors import UsageError
from mxtools.files.atomic import as_output_error, check_folder
from mxtools.files.temporary import replace, sync_files, temporary_folder

SIZES = {
    "vocab_size": 1000,
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}
BERT = {**SIZES, "max_position_embeddings": 64}


class Kind(StrEnum):
    """The kinds of models."""

    BERT = "bert"
    CLASSIFIER = "classifier"
    LLAMA = "llama"
    RESNET = "resnet"


CLASSES: dict[Kind, tuple[str, dict[str, Any]]] = {
    Kind.BERT: ("BertModel", BERT),
    Kind.CLASSIFIER: ("BertForSequenceClassification", BERT),
    Kind.LLAMA: ("LlamaForCausalLM", {**SIZES, "num_key_value_heads": 2}),
    Kind.RESNET: (
        "ResNetForImageClassification",
        {"embedding_size": 16, "hidden_sizes": [16, 32, 64, 128], "depths": [2, 2, 2, 2], "layer_type": "basic"},
    ),
}
"""The class in transformers, and its configuration."""


def write_demo(kind: Kind, folder: Path) -> int:
    """Write a model as a Hugging Face folder; return how many parameters it has.

    The weights come from a fixed seed, so everybody has the same model. If the folder has that model already, it stays
    as it is. Raises UsageError if the folder has anything else in it.
    """
    check_folder(folder)
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if there and "config.json" not in there:
        raise _taken(folder)
    import torch
    import transformers

    from mxtools.runtime.quiet import quiet

    name, settings = CLASSES[kind]
    made = getattr(transformers, name)
    torch.manual_seed(0)
    model = made(made.config_class(**settings))
    with as_output_error(folder), temporary_folder(folder) as scratch:
        with quiet():
            model.save_pretrained(scratch)
        if there and not _are_equal(scratch, folder, there):
            raise _taken(folder)
        if not there:
            sync_files(scratch)
            replace(scratch, folder)
    return sum(weight.numel() for weight in model.parameters())


def _taken(folder: Path) -> UsageError:
    return UsageError(f"{folder} exists and is not empty", "name a new folder")


def _are_equal(made: Path, folder: Path, there: set[str]) -> bool:
    """Return whether two folders have the same files; `there` are the names in the second one."""
    names = {path.name for path in made.iterdir()}
    return names == there and filecmp.cmpfiles(made, folder, names, shallow=False)[0] == [*names]
