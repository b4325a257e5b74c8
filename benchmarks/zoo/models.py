"""A small model of every architecture of transformers that can be made small: `models.py:MODEL_TYPE`.

Nothing is told about a single architecture. Settings whose names mean a size get a small one, in a configuration and in
those inside it, and `mx` makes the inputs. `models.txt` lists the architectures that come out small and run; this makes
the list anew, for another version of transformers, and says on stderr what keeps the others out:

    python benchmarks/zoo/models.py > benchmarks/zoo/models.txt
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

SIZES = {
    32: "hidden_size d_model n_embd dim emb_dim embedding_size embed_dim image_size decoder_hidden_size",
    64: "intermediate_size ffn_dim encoder_ffn_dim decoder_ffn_dim d_ff d_inner max_position_embeddings n_positions"
    " moe_intermediate_size shared_expert_intermediate_size mlp_dim max_source_positions max_target_positions",
    2: "num_hidden_layers n_layers n_layer num_layers encoder_layers decoder_layers num_encoder_layers"
    " num_decoder_layers num_key_value_heads num_experts_per_tok",
    4: "num_attention_heads num_heads n_head n_heads encoder_attention_heads decoder_attention_heads num_experts"
    " num_local_experts n_routed_experts attention_window",
    8: "head_dim d_head d_kv patch_size sliding_window state_size q_lora_rank kv_lora_rank num_queries"
    " qk_rope_head_dim",
    24: "projection_dim",
    200: "vocab_size",
}
"""Settings by the size that they get."""
SMALL = {name: size for size, names in SIZES.items() for name in names.split()}
STAGES = {
    "hidden_sizes widths embed_dim embed_dims encoder_hidden_sizes block_out_channels": (16, 32, 48, 64, 80),
    "depths depth num_blocks stage_repeats encoder_depths": (1, 1, 1, 1, 1),
    "num_heads num_attention_heads encoder_num_heads": (1, 2, 4, 8, 8),
}
"""Settings that give a size for each stage."""
STAGED = {name: sizes for names, sizes in STAGES.items() for name in names.split()}
OTHERS = {"use_cache": False, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
PARAMETERS, SECONDS, BYTES = 3_000_000, 60, 6 << 30
"""A model with more parameters, or that takes longer to be made and run, or needs more memory, is not small."""


def build(model_type: str) -> nn.Module:
    """Return a model of an architecture, small, with weights that no other tensor equals by chance."""
    torch.manual_seed(zlib.crc32(model_type.encode()))
    config = small(transformers.CONFIG_MAPPING[model_type])
    module = transformers.AutoModel.from_config(config).float().eval()
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor) * 0.05)
    return module


def small(kind: Any) -> Any:  # noqa: ANN401 - transformers is untyped
    """Return a configuration of a class with small sizes, and with small configurations inside."""
    return kind(**_settings(kind()))


def _settings(config: Any) -> dict[str, Any]:  # noqa: ANN401 - transformers is untyped
    """Return what a configuration says otherwise if it is small."""
    found: dict[str, Any] = {}
    layers = getattr(config, "num_hidden_layers", None)
    for name, value in config.__dict__.items():
        if name in STAGED and isinstance(value, list | tuple) and len(value) <= len(STAGED[name]):
            found[name] = list(STAGED[name][: len(value)])
        elif isinstance(value, list) and len(value) == layers:
            found[name] = [value[0], value[-1]]  # what is said of each layer
        elif isinstance(value, transformers.PreTrainedConfig):
            found[name] = {**value.to_dict(), **_settings(value)}
        elif name in OTHERS:
            found[name] = OTHERS[name]
        elif name in SMALL and isinstance(value, int) and not isinstance(value, bool):
            found[name] = min(SMALL[name], value)
    return found


zoo: dict[str, Callable[[], nn.Module]] = {
    name: (lambda name=name: build(name)) for name in sorted(MODEL_MAPPING_NAMES)
}


def require_small(name: str) -> None:
    """Raise an error unless an architecture comes out small and runs on inputs that `mx` makes."""
    from mxtools.pytorch.loading.inputs import load_subject
    from mxtools.pytorch.loading.running import run

    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    with torch.device("meta"):
        config = small(transformers.CONFIG_MAPPING[name])
        count = sum(each.numel() for each in transformers.AutoModel.from_config(config).parameters())
    if count > PARAMETERS:
        raise ValueError(f"{count} parameters")
    subject = load_subject(f"{Path(__file__)}:{name}")
    with torch.no_grad():
        run(subject.model, subject.inputs)


def _tell(name: str, queue: multiprocessing.Queue[str]) -> None:
    try:
        require_small(name)
        queue.put("")
    except Exception as error:  # of any library: it keeps the architecture out
        queue.put(f"{type(error).__name__}: {error}"[:150].replace("\n", " "))


def checked() -> Iterator[tuple[str, str]]:
    """Yield each architecture and what keeps it out, empty if nothing does."""
    for name in zoo:
        queue: multiprocessing.Queue[str] = multiprocessing.Queue()
        child = multiprocessing.get_context("fork").Process(target=_tell, args=(name, queue))
        child.start()
        child.join(SECONDS)
        child.kill()
        child.join()
        yield name, queue.get() if not queue.empty() else "crashed or took too long"


if __name__ == "__main__":
    for name, cause in checked():
        print(f"{name}: {cause}" if cause else name, file=sys.stderr if cause else sys.stdout, flush=True)
