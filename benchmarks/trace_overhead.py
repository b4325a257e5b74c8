"""Measure what tracing costs beside a plain forward pass, on BERT-base at sequence length 128.

The two run in turn. Exit status 1 when it is more than 1.3 x the forward pass + 0.3 s per GB of parameters, from each
of which a fingerprint is taken.
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
    forward, traced = medians(lambda: model(**inputs), lambda: trace(subject))
    limit = 1.3 * forward + 0.3 * gigabytes
    print(
        f"forward {forward:.3f} s, {gigabytes:.2f} GB; trace {traced:.3f} s, limit {limit:.3f} s: {traced / limit:.2f}"
    )
    return int(traced > limit)


@torch.no_grad()
def medians(*works: Callable[[], object]) -> list[float]:
    """Return the median seconds of some functions that run in turn, after one round that is not counted."""
    seconds: list[list[float]] = [[] for _ in works]
    for _ in range(ROUNDS + 1):
        for work, found in zip(works, seconds, strict=True):
            start = time.perf_counter()
            work()
            found.append(time.perf_counter() - start)
    return [statistics.median(found[1:]) for found in seconds]


if __name__ == "__main__":
    sys.exit(main())
