"""`mx tune` of a model of BERT-base size beside its parts: so many quantisations, so many evaluations, and memory.

    python benchmarks/tuning_time.py [--layers 12] [--evaluations 20]

Weights are random. All run in processes of their own: `tune` with a target that no small model meets, and a budget; and
a loop that quantises the model by ONNX Runtime's tool, loads it into a session and runs all sets, as often as `tune`
made models, and as often as the budget allows. `tune` needs fewer models than that, and spends time on measuring.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

TOKENS, ROWS, SETS = 32, 4, 6


def exported(folder: Path, layers: int) -> Path:
    """Return a tagged model; made once."""
    path = folder / f"bert-{layers}.onnx"
    if not path.exists():
        import torch
        from transformers import BertConfig, BertModel

        import mxtools

        torch.manual_seed(0)
        module = BertModel(BertConfig(num_hidden_layers=layers)).eval()
        inputs = {"input_ids": torch.ones((2, TOKENS), dtype=torch.long)}
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        trace = mxtools.trace(module, inputs)
        model = mxtools.export(module, inputs, dynamic=True)
        model.tag(trace)
        model.save(path)
    return path


def sets() -> list[dict[str, np.ndarray]]:
    """Return sets of inputs."""
    rng = np.random.default_rng(0)
    ids = [rng.integers(0, 1000, (ROWS, TOKENS)) for _ in range(SETS)]
    return [{"input_ids": each, "attention_mask": np.ones_like(each)} for each in ids]


def tuned(path: Path, evaluations: int) -> None:
    """Print the evaluations that `tune` made, and its seconds."""
    import mxtools
    from mxtools.tuning.samples import samples
    from mxtools.tuning.tuning import Request, tune

    model, made = mxtools.load(path), list[float]()
    data = samples(model.proto, sets(), sets()[:1], more=False)
    begun = time.monotonic()
    request = Request(">=base-0", function=_endless, budget=evaluations)
    found = tune(model, data, request, lambda _: made.append(time.monotonic() - begun))
    print(len(found.evaluations), time.monotonic() - begun, _peak(), found.counts.probes)


def _endless(session: object, given: list[dict[str, np.ndarray]]) -> float:
    """Return a figure that falls with every change, so that the search goes on."""
    run = session.run  # type: ignore[attr-defined]  # an untyped library's session
    return -float(sum(np.abs(run(None, dict(each))[0][0, 0, :8]).sum() for each in given))


def parts(path: Path, evaluations: int) -> None:
    """Print the seconds of quantisations and evaluations."""
    import tempfile

    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic

    begun = time.monotonic()
    for _ in range(evaluations):
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder, "m.onnx")
            quantize_dynamic(path, made, weight_type=QuantType.QInt8, per_channel=True)
            session = onnxruntime.InferenceSession(made, providers=["CPUExecutionProvider"])
            for each in sets():
                session.run(None, each)
    print(evaluations, time.monotonic() - begun, _peak(), 0)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main() -> None:
    """Measure both, each in a process of its own, and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--evaluations", type=int, default=20)
    parser.add_argument("--folder", type=Path, default=Path("build/tuning"))
    parser.add_argument("--only", choices=["tuned", "parts"])
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    path = exported(given.folder, given.layers)
    if given.only:
        {"tuned": tuned, "parts": parts}[given.only](path, given.evaluations)
        return
    print("| | evaluations | seconds | peak MB | probes |\n|---|---:|---:|---:|---:|")
    made = 0
    for which, wanted in (("tuned", given.evaluations), ("parts", None), ("parts", given.evaluations)):
        line = [sys.executable, __file__, "--only", which, "--layers", str(given.layers), "--folder", str(given.folder)]
        line += ["--evaluations", str(wanted or made)]
        done = subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True)
        count, seconds, peak, probes = done.stdout.splitlines()[-1].split()
        made = int(count)
        print(f"| {which} | {count} | {float(seconds):.1f} | {peak} | {probes} |", flush=True)


if __name__ == "__main__":
    main()
