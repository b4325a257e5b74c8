"""The fixtures of all tests: the command `mx`, and models that are traced, exported and tagged."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import commands, shared_models
from tests.support.commands import Mx
from tests.support.shared_models import Build, Record, SharedFolder


@pytest.fixture(scope="session")
def mx() -> Mx:
    """Run `mx` with arguments; the result has returncode, stdout and stderr (bytes)."""
    return commands.mx


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> SharedFolder:
    """Return the folder that all processes of the session share."""
    return SharedFolder(tmp_path_factory)


@pytest.fixture(scope="session")
def built(shared_folder: SharedFolder) -> Build:
    """Return the folder with a model of `fixtures/models.py` traced, exported and tagged, made when first asked for."""

    def make(name: str, exporter: str = "torchscript") -> Path:
        return shared_folder.part(f"{name}-{exporter}", lambda folder: shared_models.build(folder, name, exporter))

    return make


@pytest.fixture(scope="session")
def recorded(shared_folder: SharedFolder) -> Record:
    """Return the recorded sidecar of a model of `fixtures/models.py`, made when first asked for."""

    def make(name: str) -> Path:
        folder = shared_folder.part(f"{name}-recorded", lambda folder: shared_models.record(folder, name))
        return folder / "trace.json"

    return make
