"""Split models by a budget, run the parts one after the other, and join them again.

    python benchmarks/parts.py FILE.onnx …

Each tagged model is split into 2, 3 and 4 parts by each measure, and into parts of at most a third of its weights, or
of what its largest module has. The parts, and the model joined from them, must compute bit for bit what the model
computes, no part may exceed the limit, and the largest part may not exceed what the largest module, or an even share
with 10 % more, comes to. Exit status 1 if anything of that fails. Prints a line for each failure, and how many
divisions were within 1.1 times the mean, and within that or with a part that is a single module.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mxtools.errors import CheckError, InputError, MxError, UsageError
from mxtools.model.model import Model
from mxtools.runtime.sessions import run_model
from mxtools.split.connections import join_parts
from mxtools.split.running import run_parts

PARTS = (2, 3, 4)
MEASURES = ("bytes", "multiply-adds", "activations")
EVEN = 1.1


def budgets(model: Model) -> Iterator[dict[str, Any]]:
    """Yield the options of the splits of a model."""
    for parts in PARTS:
        for measure in MEASURES:
            yield {"parts": parts, "balance": measure}
    yield {"max_bytes": max(model.tree().bytes // 3, 1)}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether outputs are equal, bit for bit."""
    return all(np.array_equal(np.asarray(one[k]), np.asarray(other[k]), equal_nan=_has_nan(one[k])) for k in other)


def _has_nan(value: object) -> bool:
    return np.asarray(value).dtype.kind in "fc"


def check(model: Model, options: dict[str, Any], counts: Counter[str], expected: dict[str, Any]) -> Iterator[str]:
    """Split a model, which computes what is expected; yield what is wrong."""
    inputs = model.inputs()
    try:
        split = model.split(**options)
    except CheckError as error:
        least = int(str(error.remedy).rpartition(" ")[2])
        counts["limits that cannot be kept"] += 1
        options = {"max_bytes": least}
        split = model.split(**options)  # which the message says is possible
    except UsageError as error:
        counts[f"refused: {str(error).partition(':')[0][-40:]}"] += 1
        return
    with tempfile.TemporaryDirectory() as folder:
        manifest = split.save(folder)
        if not same(run_parts(manifest, Path(folder), inputs), expected):
            yield "the parts compute something else"
        joined, _ = join_parts(Path(folder))
        known = {info.name for info in joined.proto.graph.input}
        given = {name: value for name, value in inputs.items() if name in known}
        if not same(run_model(joined.proto, joined.weights, given), expected):
            yield "the joined model computes something else"
    figures = [part.figures for part in manifest.parts if part.figures]
    if "max_bytes" in options and max(f.bytes for f in figures) > options["max_bytes"]:
        yield "a part is above the limit"
    plan = manifest.plan
    if "parts" in options and plan:
        counts["divisions"] += 1
        counts["within 1.1 of the mean"] += plan.largest <= EVEN * plan.mean
        counts["within 1.1 of what is possible at least"] += plan.largest <= EVEN * plan.bound
        counts["fewer parts than asked for"] += len(figures) < options["parts"]


def main() -> int:
    """Check all models; return the exit status."""
    counts: Counter[str] = Counter()
    failed = 0
    for file in map(Path, sys.argv[1:]):
        model = Model.read(file)
        try:
            expected = run_model(model.proto, model.weights, model.inputs())
        except InputError:
            counts["models that do not run"] += 1
            continue
        for options in budgets(model):
            try:
                faults = [*check(model, options, counts, expected)]
            except MxError as error:
                faults = [str(error)]
            for fault in faults:
                failed += 1
                print(f"{file.name} {options}: {fault}", flush=True)
    print("; ".join(f"{what}: {count}" for what, count in sorted(counts.items())), f"; failures: {failed}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
