"""`mx tag` and `mx filter` beside what people would do instead, on a BERT-base of 440 MB; ratios of whole processes.

speed.py [FOLDER]: models are kept in FOLDER (build/bench). Exit status 1 when a ratio is above its limit.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROUNDS = 5
MX = str(Path(sys.executable).with_name("mx"))
FOLDER = Path(sys.argv[1] if len(sys.argv) > 1 else "build/bench")

BUILD = """
import sys, torch, transformers
transformers.utils.logging.disable_progress_bar()
torch.manual_seed(0)
transformers.BertModel(transformers.BertConfig()).save_pretrained(sys.argv[1])
"""
LOAD_SAVE = "import onnx, sys; onnx.save(onnx.load(sys.argv[1]), sys.argv[2])"
EXTRACT = """
import onnx, onnx.utils, sys
onnx.utils.extract_model(sys.argv[1], sys.argv[2], sys.argv[3].split(","), sys.argv[4].split(","))
"""


def main() -> int:
    """Build what is missing, measure, print; give the exit status."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    raw, tagged, trace = FOLDER / "bert.onnx", FOLDER / "bert.tagged.onnx", FOLDER / "bert.trace.json"
    if not raw.exists():
        run([sys.executable, "-c", BUILD, FOLDER / "bert"])
        run([MX, "trace", FOLDER / "bert", "-o", trace])
        run([MX, "export", FOLDER / "bert", "--exporter", "torchscript", "-o", raw])
    run([MX, "tag", raw, "--trace", trace, "-o", tagged])
    out = FOLDER / "out.onnx"
    part = run([MX, "filter", tagged, "--scope", "encoder.layer.6", "-o", out, "--json"])

    report = json.loads(part)
    boundary = [",".join(report["inputs"]), ",".join(report["outputs"])]
    failed = False
    for name, ours, theirs, limit in (
        (
            "mx tag : onnx load + save",
            [MX, "tag", raw, "--trace", trace, "-o", out],
            [sys.executable, "-c", LOAD_SAVE, raw, out],
            1.0,
        ),
        (
            "mx filter : onnx.utils.extract_model",
            [MX, "filter", tagged, "--scope", "encoder.layer.6", "-o", out],
            [sys.executable, "-c", EXTRACT, tagged, out, *boundary],
            0.5,
        ),
    ):
        (a, memory_a), (b, memory_b) = best(ours), best(theirs)
        failed |= a / b > limit
        print(
            f"{name}: {a:.2f} s / {b:.2f} s = {a / b:.2f} (limit {limit}); memory {memory_a:.0f} MB / {memory_b:.0f} MB"
        )
    return int(failed)


def run(command: Sequence[object]) -> bytes:
    """Run a command, which must succeed; give its stdout."""
    return subprocess.run([str(part) for part in command], check=True, stdout=subprocess.PIPE).stdout


def best(command: Sequence[object]) -> tuple[float, float]:
    """Give the least seconds and peak megabytes of some runs of a command."""
    found = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        process = subprocess.Popen(
            [str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"failed: {command}")
        found.append((time.perf_counter() - start, usage.ru_maxrss / 1024))
    return min(found)


if __name__ == "__main__":
    sys.exit(main())
