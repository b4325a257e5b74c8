"""Run a generated Llama-like model that is larger than the memory for it, in parts: `mx split` and `mx run-parts`.

    python benchmarks/large_parts.py [FOLDER [LAYERS …]]

Models of so many layers (24, which is 1.5 GB, and 112, which is 6 GB) are made in FOLDER (build/bench) and removed.
Each is split by `--max-bytes` into parts of at most an eighth of its weights, or of its largest module. Exit status 1
when a part is above that, when `mx run-parts` takes more memory than half of the weights and 300 MB, or when the
outputs of the smaller model, which fits into memory, differ from those of the whole.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from external import LAYERS, write
from measuring import FOLDER, MX

VOCABULARY = 32_000
SHARE, MEMORY, MEGABYTES = 8, 0.5, 300
LARGE = 112


def measured(*arguments: object) -> tuple[float, float]:
    """Run `mx`, which must succeed; return seconds, and the peak of its memory in megabytes."""
    start = time.perf_counter()
    process = subprocess.Popen([MX, *map(str, arguments)])
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"failed: mx {arguments}")
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def check(folder: Path, layers: int) -> bool:
    """Split and run a model; return whether something is not as it should be."""
    model, parts = folder / "model.onnx", folder / "parts"
    write(model, VOCABULARY, layers=layers)
    measured("tag", model, "-o", model)
    size = Path(f"{model}.data").stat().st_size
    limit = max(size // SHARE, 4 * VOCABULARY * 1024)
    seconds, memory = measured("split", model, "--max-bytes", limit, "-d", parts)
    manifest = json.loads((parts / "manifest.json").read_text())
    largest = max(part["figures"]["bytes"] for part in manifest["parts"])
    print(
        f"mx split, {size / 1e9:.1f} GB: {len(manifest['parts'])} parts of at most {largest / 1e6:.0f} MB "
        f"(limit {limit / 1e6:.0f} MB) in {seconds:.1f} s, memory {memory:.0f} MB",
        flush=True,
    )
    options = ["--verify", model] if layers <= LAYERS else []
    if not options:  # what is run now needs nothing but the parts
        model.unlink()
        Path(f"{model}.data").unlink()
    seconds, memory = measured("run-parts", parts)
    allowed = MEMORY * size / 1e6 + MEGABYTES
    print(f"mx run-parts: {seconds:.1f} s, memory {memory:.0f} MB (limit {allowed:.0f} MB)", flush=True)
    if options:
        measured("run-parts", parts, *options)
    return largest > limit or memory > allowed


def main() -> int:
    """Measure and print; return the exit status."""
    failed = False
    for layers in [int(text) for text in sys.argv[2:]] or (LAYERS, LARGE):
        folder = FOLDER / f"large-{layers}"
        folder.mkdir(parents=True)
        try:
            failed |= check(folder, layers)
        finally:
            shutil.rmtree(folder)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
