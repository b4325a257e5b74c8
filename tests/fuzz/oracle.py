"""What must never happen, whatever a file holds: a fault, a signal, debris, too long, too large, a bad result."""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from tests.support.commands import mx

STATUSES = (0, 1, 2, 3, 4)
SECONDS = 20.0
MEMORY = 2 << 30
"""Bytes of resident memory."""


@dataclass(frozen=True)
class Verdict:
    """What is wrong with how a command ended, empty where nothing is."""

    fault: str
    said: str


def judged(line: Sequence[str], folder: Path, outputs: Sequence[str], loads: bool) -> Verdict:
    """Run a command in a folder and judge it; `outputs` are the models that it may write.

    `loads` says whether ONNX Runtime loads what the command is given: then it has to load what is written too.
    """
    before = {path.name for path in folder.iterdir()}
    start = time.monotonic()
    done = mx(*line, cwd=folder)
    seconds = time.monotonic() - start
    said = done.stderr.decode(errors="replace")
    after = {path.name for path in folder.iterdir()}
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10
    fault = ""
    if done.returncode not in STATUSES:
        fault = f"status {done.returncode}"
    elif done.returncode in (2, 3, 4) and len([part for part in said.splitlines() if part.startswith("mx")]) != 1:
        fault = "not one line"
    elif "Traceback" in said:
        fault = "a traceback"
    elif any(c not in "\n" and not c.isprintable() for c in said):
        fault = "unprintable message"
    elif debris := {name for name in after - before if name.startswith(".") or name.endswith(".tmp")}:
        fault = f"debris {sorted(debris)}"
    elif done.returncode in (2, 3, 4) and after - before:
        fault = f"outputs of a failure {sorted(after - before)}"
    elif seconds > SECONDS:
        fault = f"{seconds:.0f} s"
    elif largest > MEMORY:
        fault = f"{largest >> 20} MiB"
    elif done.returncode == 0 and loads:
        fault = next(
            (f"{name} does not load" for name in outputs if (folder / name).exists() and not does_load(folder / name)),
            "",
        )
    return Verdict(fault, said)


def does_load(file: Path) -> bool:
    """Return whether ONNX Runtime loads a model without optimising it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        onnx.load(file, load_external_data=False)
        onnxruntime.InferenceSession(str(file), options)
    except Exception:  # whatever it is, it does not load
        return False
    return True
