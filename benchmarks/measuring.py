"""Shared by the benchmarks of whole processes: run `mx` and other commands, and compare their times and memory."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROUNDS = 5
MX = str(Path(sys.executable).with_name("mx"))
FOLDER = Path(sys.argv[1] if len(sys.argv) > 1 else "build/bench")
EXTRACT = """
import onnx, onnx.utils, sys
onnx.utils.extract_model(sys.argv[1], sys.argv[2], sys.argv[3].split(","), sys.argv[4].split(","))
"""

Command = Sequence[object]


def run(command: Command) -> bytes:
    """Run a command, which must succeed; return its stdout."""
    return subprocess.run([str(part) for part in command], check=True, stdout=subprocess.PIPE).stdout


def best(*commands: Command) -> list[tuple[float, float]]:
    """Return the least seconds and the peak megabytes of each command in some rounds, each of which runs all commands.

    The peak is never below this process's own memory, because the kernel counts that for the processes that it starts.
    """
    found = [[_measured(command) for command in commands] for _ in range(ROUNDS)]
    return [
        (min(seconds for seconds, _ in runs), max(memory for _, memory in runs)) for runs in zip(*found, strict=True)
    ]


def compare(name: str, ours: Command, theirs: Command, limit: float, megabytes: float | None = None) -> bool:
    """Print the ratio of the times of two commands, and their memory; return whether a limit is exceeded."""
    (a, memory_a), (b, memory_b) = best(ours, theirs)
    most = f" (limit {megabytes:.0f} MB)" if megabytes else ""
    print(
        f"{name}: {a:.2f} s / {b:.2f} s = {a / b:.2f} (limit {limit}); "
        f"memory {memory_a:.0f} MB{most} / {memory_b:.0f} MB"
    )
    return a / b > limit or (megabytes is not None and memory_a > megabytes)


def _measured(command: Command) -> tuple[float, float]:
    start = time.perf_counter()
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"failed: {command}")
    return time.perf_counter() - start, usage.ru_maxrss / 1024
