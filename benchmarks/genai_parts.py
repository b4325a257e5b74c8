"""Generate text with onnxruntime-genai by the parts of decoders, and compare it with what PyTorch generates.

    python benchmarks/genai_parts.py [--environment DIR] [NAME …]

Small decoders with random weights are saved as Hugging Face folders, exported with their caches by both exporters,
tagged, and split: by weights, by work, and into embedding, layers and head. `mx split --genai` writes the
configuration. onnxruntime-genai is installed in an environment of its own, build/genai/environment, or DIR, which is
taken as it is; there it loads each folder and generates tokens, greedily, from a prompt. They must be PyTorch's tokens.

Prints a line for each split. Exit status 1 if one does not load, or gives other tokens.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
ENVIRONMENT = ROOT / "build" / "genai" / "environment"
PACKAGE = "onnxruntime-genai==0.18.0"
MX = Path(sys.executable).with_name("mx")
PROMPT, LENGTH = [5, 17, 33, 200, 8], 32
EXPORTERS = ("dynamo", "torchscript")
GENERATE = """
import json, sys
import onnxruntime_genai as genai
model = genai.Model(sys.argv[1])
params = genai.GeneratorParams(model)
params.set_search_options(max_length=int(sys.argv[3]), do_sample=False)
generator = genai.Generator(model, params)
generator.append_tokens(json.loads(sys.argv[2]))
while not generator.is_done():
    generator.generate_next_token()
print(json.dumps([int(token) for token in generator.get_sequence(0)]))
"""
ENDS = {"llama": ("model.embed_tokens", "lm_head"), "gpt2": ("transformer.wte", "lm_head")}
ENDS["qwen2"] = ENDS["llama"]
"""The embedding and the head of each model."""
SEEDS = 20
SMALL = {"vocab_size": 256, "bos_token_id": 1, "eos_token_id": 2}


def saved(name: str, folder: Path) -> list[int]:
    """Save a decoder with random weights; return the tokens that it generates in PyTorch."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "max_position_embeddings": 128}
    own = {"n_embd": 64, "n_layer": 4, "n_head": 4, "n_positions": 128} if name == "gpt2" else sizes
    config, ids = AutoConfig.for_model(name, **own, **SMALL), torch.tensor([PROMPT])
    options = {"attention_mask": torch.ones_like(ids), "max_length": LENGTH, "do_sample": False, "pad_token_id": 2}
    for seed in range(SEEDS):  # random weights may end a text at once
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config).eval()
        found = [int(token) for token in model.generate(ids, **options)[0]]
        if len(found) == LENGTH:
            model.save_pretrained(folder)
            return found
    raise SystemExit(f"{name} ends all texts early")


def run(*arguments: object) -> None:
    """Run `mx`; end if it fails."""
    done = subprocess.run([str(MX), *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"mx {' '.join(map(str, arguments))}: {done.stderr}")


def splits(name: str, folder: Path) -> Iterator[tuple[str, Path]]:
    """Export, tag and split a decoder; yield what each split is, and its folder."""
    model, trace = folder / name, folder / f"{name}.trace.json"
    run("trace", model, "--with-past", "-o", trace)
    for exporter in EXPORTERS:
        raw, file = folder / "raw.onnx", folder / f"{name}-{exporter}.onnx"
        run("export", model, "--with-past", "--exporter", exporter, "-o", raw)
        run("tag", raw, "--trace", trace, "-o", file)
        ends = [word for scope in ENDS[name] for word in ("--each", scope)]
        by_work = ["--parts", "2", "--balance", "multiply-adds"]
        for what, options in (
            ("by weights", ["--parts", "4"]),
            ("by work", by_work),
            ("embedding, layers, head", ends),
        ):
            parts = folder / f"{name}-{exporter}-{what[:7]}"
            run("split", file, *options, "--genai", model, "-d", parts)
            yield f"{name}, {exporter}, {what}", parts


def environment(given: Path | None) -> Path:
    """Return the Python of an environment with onnxruntime-genai; it is made if none is given and there is none."""
    place = given or ENVIRONMENT
    python = place / "bin" / "python"
    if not given and not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", PACKAGE], check=True)
    return python


def main() -> int:
    """Generate by all splits; return the exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--environment", type=Path)
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    python, failed = environment(options.environment), 0
    for name in options.names or ENDS:
        with tempfile.TemporaryDirectory() as folder:
            expected = saved(name, Path(folder, name))
            for what, parts in splits(name, Path(folder)):
                arguments = [str(parts), json.dumps(PROMPT), str(LENGTH)]
                done = subprocess.run([str(python), "-c", GENERATE, *arguments], capture_output=True, text=True)
                found = json.loads(done.stdout) if not done.returncode else done.stderr.strip().splitlines()[-1:]
                count = len(list(parts.glob("*.onnx")))
                failed += found != expected
                verdict = "the tokens of PyTorch" if found == expected else f"FAILED: {found}, not {expected}"
                print(f"{what}: {count} parts; {len(expected) - len(PROMPT)} tokens generated; {verdict}", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
