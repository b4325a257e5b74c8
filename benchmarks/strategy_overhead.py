"""Measure what tracing and tagging cost beside the raw export: BERT-base at sequence length 128, both exporters.

In one process, interleaved: the raw export alone, and trace, export and tag together. Exit status 1 when the ratio of
the medians is above 1.10 with TorchScript, or above 1.05 with torch.export.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import transformers

from mxtools.pytorch.exporting.export import export
from mxtools.pytorch.sources import Sources
from mxtools.pytorch.strategy.attempt import tagged_by
from mxtools.pytorch.subject import Subject
from mxtools.strategies.metrics import Meter

ROUNDS = 3
LIMITS = {"htp": ("torchscript", 1.10), "fx": ("dynamo", 1.05)}


def main() -> int:
    """Measure and print; return the exit status."""
    torch.manual_seed(0)
    model = transformers.BertModel(transformers.BertConfig()).eval()
    inputs = {"input_ids": torch.randint(0, 30_000, (1, 128)), "attention_mask": torch.ones(1, 128, dtype=torch.int64)}
    subject = Subject(model, inputs, "bert-base")
    failed = False
    for strategy, (exporter, limit) in LIMITS.items():
        raw, whole = interleaved(
            partial(export_alone, subject, exporter),
            partial(tag, subject, strategy),
        )
        failed |= whole > limit * raw
        print(f"{strategy}: export {raw:.2f} s, trace, export and tag {whole:.2f} s: {whole / raw:.3f} (limit {limit})")
    return int(failed)


def export_alone(subject: Subject, exporter: str, folder: Path) -> None:
    export(subject, folder / "model.onnx", exporter)


def tag(subject: Subject, strategy: str, folder: Path) -> None:
    """Trace, export and tag."""
    tagged_by(strategy, Sources(lambda: subject, folder), Meter())


def interleaved(*works: Callable[[Path], object]) -> list[float]:
    """Return the median seconds of some functions, run in turn, after one round that is not counted."""
    seconds: list[list[float]] = [[] for _ in works]
    for _ in range(ROUNDS + 1):
        for taken, work in zip(seconds, works, strict=True):
            with tempfile.TemporaryDirectory() as folder:
                start = time.perf_counter()
                work(Path(folder))
                taken.append(time.perf_counter() - start)
    return [statistics.median(taken[1:]) for taken in seconds]


if __name__ == "__main__":
    sys.exit(main())
