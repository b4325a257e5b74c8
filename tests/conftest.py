"""What tests share: models, their exports and sidecars, and the `mx` command in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODELS = ROOT / "fixtures" / "models.py"

Mx = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture(scope="session")
def mx() -> Mx:
    """Run `mx` with arguments; the result has returncode, stdout and stderr (bytes)."""
    command = Path(sys.executable).with_name("mx")

    def run(
        *arguments: object, stdin: bytes = b"", cwd: Path | None = None, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        environment = {**os.environ, **(env or {})}
        line = [command, *map(str, arguments)]
        return subprocess.run(line, input=stdin, capture_output=True, cwd=cwd, env=environment, check=False)

    return run


@pytest.fixture(scope="session")
def built(mx: Mx, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Give the folder with a model of `fixtures/models.py` traced, exported and tagged, made when first asked for."""
    folders: dict[tuple[str, str], Path] = {}

    def make(name: str, exporter: str = "torchscript") -> Path:
        if (name, exporter) not in folders:
            folder = tmp_path_factory.mktemp(f"{name}-{exporter}")
            spec = f"{MODELS}:{name}"
            for arguments in (
                ("trace", spec, "-o", folder / "trace.json"),
                ("export", spec, "--exporter", exporter, "-o", folder / "raw.onnx"),
                ("tag", folder / "raw.onnx", "--trace", folder / "trace.json", "-o", folder / "tagged.onnx"),
            ):
                done = mx(*arguments)
                assert done.returncode == 0, done.stderr.decode()
            folders[name, exporter] = folder
        return folders[name, exporter]

    return make


@pytest.fixture(scope="session")
def recorded(mx: Mx, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Give the recorded sidecar of a model of `fixtures/models.py`, made when first asked for."""
    traces: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in traces:
            traces[name] = tmp_path_factory.mktemp(f"{name}-recorded") / "trace.json"
            done = mx("trace", f"{MODELS}:{name}", "--record", "-o", traces[name])
            assert done.returncode == 0, done.stderr.decode()
        return traces[name]

    return make
