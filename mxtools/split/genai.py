"""The configuration with which onnxruntime-genai generates text by the parts of a decoder: `genai_config.json`.

The library keeps the cache of keys and values and chooses each next token; to compute it, it runs the parts in order:

    input_ids, attention_mask, past_key_values.0.key … -> 00-part.onnx -> 01-part.onnx -> … -> logits, present.0.key …

It finds what a part reads among these inputs and what earlier parts returned, by name. Heads, their size and layers are
in the graph; words, the length of the context and the tokens that begin and end a text are in the model's own
`config.json` and `generation_config.json`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnx import ModelProto

from mxtools.errors import InputError, UsageError
from mxtools.files.json_text import decoded
from mxtools.files.regular import read_regular
from mxtools.graph.index import graph_inputs
from mxtools.graph.types import size_of
from mxtools.split.records import MODEL, Manifest

FILE = "genai_config.json"
IDS, LOGITS = "input_ids", "logits"
OTHERS = ("attention_mask", "position_ids")
"""Inputs that the library makes besides, if the model has them."""
PAST, PRESENT = "past_key_values.%d", "present.%d"
"""Names of a layer's cache, before it and after it, as exporters give them."""
KINDS = ("key", "value")
_CONTEXT = ("max_position_embeddings", "n_positions", "n_ctx", "seq_length", "max_seq_len")
"""Names that configurations have for the length of the context, the first one first."""
_RANK = 4
"""Dimensions of a cache: batch, heads, length, size of a head."""
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")
_REMEDY = "give the folder of the model, or its config.json"


def read_config(source: Path) -> dict[str, Any]:
    """Return what a Hugging Face folder, or its config.json, says of a model; InputError if it is none.

    What `generation_config.json` beside it says of tokens counts more.
    """
    path = source / "config.json" if source.is_dir() else source
    found = _object(path)
    text = found.get("text_config")
    found |= text if isinstance(text, dict) else {}
    beside = path.with_name("generation_config.json")
    tokens = _object(beside) if beside.is_file() else {}
    return found | {name: tokens[name] for name in _TOKENS if tokens.get(name) is not None}


def _object(path: Path) -> dict[str, Any]:
    try:
        found = decoded(read_regular(path))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})", _REMEDY) from None
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise InputError(f"{path} is not a configuration in JSON", _REMEDY)
    return found


def configuration(model: ModelProto, manifest: Manifest, config: Mapping[str, Any]) -> str:
    """Return the text of the configuration for the parts of a decoder.

    Raises UsageError if the library cannot run such a model or such parts, InputError if the configuration lacks
    something.
    """
    heads, size, layers = _cache(model)
    _check_inputs(model, layers)
    _check_parts(manifest, layers)
    vocabulary, context = _whole(config, ("vocab_size",)), _whole(config, _CONTEXT)
    begin, end, pad = (config.get(name) for name in _TOKENS)
    if end is None:
        raise InputError("the model's configuration has no eos_token_id, at which a text ends", _REMEDY)
    tokens = {"bos_token_id": begin, "eos_token_id": end, "pad_token_id": _first(end) if pad is None else pad}
    known = {info.name for info in graph_inputs(model)}
    inputs = {name: name for name in (IDS, *OTHERS) if name in known}
    decoder = {
        "head_size": size,
        "num_key_value_heads": heads,
        "num_hidden_layers": layers,
        "session_options": {"provider_options": []},
        "inputs": inputs | {f"past_{kind}_names": f"{PAST}.{kind}" for kind in KINDS},
        "outputs": {LOGITS: LOGITS} | {f"present_{kind}_names": f"{PRESENT}.{kind}" for kind in KINDS},
        "pipeline": [_stage(manifest, number) for number in range(len(manifest.parts))],
    }
    sizes = {"vocab_size": vocabulary, "context_length": context}
    tokens = {name: value for name, value in tokens.items() if value is not None}
    found = {
        "model": {"type": "decoder-pipeline", **tokens, **sizes, "decoder": decoder},
        "search": {"max_length": context, "do_sample": False},
    }
    return json.dumps(found, indent=2) + "\n"


def _stage(manifest: Manifest, number: int) -> dict[str, Any]:
    part = manifest.parts[number]
    inputs = [link.name for link in part.inputs]
    return {Path(part.file).stem: {"filename": part.file, "inputs": inputs, "outputs": list(part.outputs)}}


def _cache(model: ModelProto) -> tuple[int, int, int]:
    """Return the heads of a layer's cache, their size, and how many layers have one; UsageError if that is not known.

    All layers are of one kind for the library.
    """
    shapes = {i.name: [size_of(dim) for dim in i.type.tensor_type.shape.dim] for i in graph_inputs(model)}
    layers = 0
    while all(f"{PAST}.{kind}" % layers in shapes for kind in KINDS):
        layers += 1
    if not layers:
        raise UsageError(
            "the model is no decoder with a cache: it has no inputs past_key_values.0.key and .value",
            "export it with its cache: ⟨with-past⟩",
        )
    caches = {tuple(shapes[name]) for name in _names(PAST, layers)}
    ranks, kept = {len(shape) for shape in caches}, {shape[1::2] for shape in caches}
    heads, size = next(iter(kept)) if len(kept) == 1 and ranks == {_RANK} else (None, None)
    if heads is None or size is None:
        raise UsageError(
            "the cache of the layers has no one shape [batch, heads, length, size of a head]",
            "onnxruntime-genai cannot run it in parts",
        )
    return heads, size, layers


def _check_inputs(model: ModelProto, layers: int) -> None:
    """Raise UsageError if the library does not know what to give to an input, or misses an output."""
    known = {IDS, *OTHERS, *_names(PAST, layers)}
    other = next((info.name for info in graph_inputs(model) if info.name not in known), None)
    if other is not None:
        raise UsageError(f"onnxruntime-genai does not know what to give to the input {other!r}", "leave ⟨genai⟩ out")
    outputs = {info.name for info in model.graph.output}
    missing = next((name for name in (LOGITS, *_names(PRESENT, layers)) if name not in outputs), None)
    if missing is not None:
        raise UsageError(f"the model has no output {missing!r}, which onnxruntime-genai reads", "leave ⟨genai⟩ out")


def _check_parts(manifest: Manifest, layers: int) -> None:
    """Raise UsageError if a part reads what the library keeps for itself when another part returns it."""
    kept = {LOGITS, *_names(PRESENT, layers)}
    for part in manifest.parts:
        taken = next((link for link in part.inputs if link.source != MODEL and link.name in kept), None)
        if taken is not None:
            raise UsageError(
                f"{part.file} reads {taken.name!r} from {taken.source}, and onnxruntime-genai does not pass it on",
                "divide the model elsewhere",
            )


def _names(pattern: str, layers: int) -> list[str]:
    return [f"{pattern}.{kind}" % layer for layer in range(layers) for kind in KINDS]


def _whole(config: Mapping[str, Any], names: tuple[str, ...]) -> int:
    """Return a number that a configuration has under one of some names; InputError if it has none."""
    found = next((config[name] for name in names if isinstance(config.get(name), int)), None)
    if found is None:
        raise InputError(f"the model's configuration has no {names[0]}", _REMEDY)
    return int(found)


def _first(tokens: object) -> object:
    return tokens[0] if isinstance(tokens, list) and tokens else tokens
