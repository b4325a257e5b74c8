"""Run the examples in the docstrings of the public API; a program, so that what it imports can be looked at.

    python tests/run_examples.py torch|plain

`plain` runs the examples that need no PyTorch, and fails where it is imported all the same; `torch` the others. The
working directory has `bert.onnx`, `bert.tagged.onnx` and `bert.trace.json`.
"""

from __future__ import annotations

import doctest
import importlib
import sys
from collections.abc import Iterator

import onnx

import mxtools

PLACES = (
    "mxtools",
    "mxtools.errors",
    "mxtools.model.looking",
    "mxtools.model.model",
    "mxtools.model.rebuilding",
    "mxtools.scopes.modules",
    "mxtools.split.result",
    "mxtools.traces.trace",
)


def examples(with_torch: bool) -> Iterator[doctest.DocTest]:
    """Yield the docstrings with examples that need PyTorch, or those that do not."""
    for place in PLACES:
        for test in doctest.DocTestFinder().find(importlib.import_module(place)):
            if test.examples and any("torch." in example.source for example in test.examples) == with_torch:
                yield test


def main() -> int:
    """Return how many examples failed, and say how many docstrings were run."""
    with_torch, failed, count = sys.argv[1] == "torch", 0, 0
    for test in examples(with_torch):
        test.globs |= {"mxtools": mxtools, "onnx": onnx, "model": mxtools.load("bert.tagged.onnx")}
        if with_torch:
            test.globs["torch"] = importlib.import_module("torch")
        failed += doctest.DocTestRunner().run(test).failed
        count += 1
    sys.stdout.write(f"{count}\n")
    return failed or (not with_torch and "torch" in sys.modules)


if __name__ == "__main__":
    sys.exit(main())
