"""Models that are traced, exported and tagged once for all tests of a session, whichever process they run in."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.commands import mx
from tests.support.paths import MODELS

Build = Callable[..., Path]
"""Of a model's name in `fixtures/models.py`, and an exporter, the folder with raw.onnx, trace.json and tagged.onnx."""
Record = Callable[[str], Path]
"""Of a model's name, the sidecar, whose recorded values lie beside it."""


class SharedFolder:
    """A folder that all processes of a test session share; each of its parts is made once, by who needs it first."""

    def __init__(self, factory: pytest.TempPathFactory) -> None:
        """Place it, where the session has several processes, beside the folders of each."""
        base = factory.getbasetemp()
        self.path = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
        self.path.mkdir(exist_ok=True)

    def part(self, name: str, make: Callable[[Path], None]) -> Path:
        """Return a folder in it, which `make` fills where it is not there yet."""
        from filelock import FileLock

        done, scratch = self.path / name, self.path / f"{name}.part"
        if done.exists():
            return done
        with FileLock(self.path / f"{name}.lock"):
            if not done.exists():
                shutil.rmtree(scratch, ignore_errors=True)
                scratch.mkdir()
                make(scratch)
                scratch.rename(done)
        return done


def build(folder: Path, name: str, exporter: str) -> None:
    """Fill a folder with the sidecar of a model, what an exporter writes, and that tagged."""
    spec = f"{MODELS}:{name}"
    run("trace", spec, "-o", "trace.json", cwd=folder)
    run("export", spec, "--exporter", exporter, "-o", "raw.onnx", cwd=folder)
    run("tag", "raw.onnx", "--trace", "trace.json", "-o", "tagged.onnx", cwd=folder)


def record(folder: Path, name: str) -> None:
    """Fill a folder with the sidecar of a model and its recorded values."""
    run("trace", f"{MODELS}:{name}", "--record", "-o", "trace.json", cwd=folder)


def run(*arguments: str, cwd: Path) -> None:
    done = mx(*arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr.decode()
