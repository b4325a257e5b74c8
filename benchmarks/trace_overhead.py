"""Measure what tracing costs beside a plain forward pass, on BERT-base at sequence length 128.

Exit status 1 when it is more than 2 x the forward pass + 0.3 s per GB of parameters.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
import transformers

from mxtools.pytorch.subject import Subject
from mxtools.pytorch.tracing import trace

ROUNDS = 5


def main() -> int:
    """Measure and print; return the exit status."""
    torch.manual_seed(0)
    model = transformers.BertModel(transformers.BertConfig()).eval()
    inputs = {"input_ids": torch.randint(0, 30_000, (1, 128)), "attention_mask": torch.ones(1, 128, dtype=torch.int64)}
    subject = Subject(model, inputs, "bert-base")
    gigabytes = sum(p.numel() * p.element_size() for p in model.parameters()) / 1e9
    with torch.no_grad():
        forward = median(lambda: model(**inputs))
    traced = median(lambda: trace(subject))
    limit = 2 * forward + 0.3 * gigabytes
    print(
        f"forward {forward:.3f} s, {gigabytes:.2f} GB; trace {traced:.3f} s, limit {limit:.3f} s: {traced / limit:.2f}"
    )
    return int(traced > limit)


def median(work: Callable[[], object]) -> float:
    """Return the median seconds of some runs, after one that is not counted."""
    work()
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


if __name__ == "__main__":
    sys.exit(main())
