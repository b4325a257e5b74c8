"""The fixtures of all tests: the command `mx`, and models that are traced, exported and tagged."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from mxtools.runtime.processor import int8_overflows
from tests.support import browsing, commands, shared_models
from tests.support.commands import Mx
from tests.support.shared_models import Build, Record, SharedFolder

settings.register_profile("tests", deadline=None)  # a machine with much else to do is no fault of the code
settings.load_profile("tests")

USES_TORCH = re.compile(
    r"^(import|from) (torch|transformers|fixtures|mxtools\.(pytorch|unified_export|strategy_selector))\b"
)


@cache
def uses_torch(file: Path) -> bool:
    """Return whether a test module imports PyTorch, or what imports it, at its top."""
    return any(map(USES_TORCH.match, file.read_text().splitlines()))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the golden files be written anew."""
    parser.addoption("--update-golden", action="store_true", help="write what pipelines make now to tests/golden")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out, where PyTorch is not wanted or not there, the modules that could not be imported without it."""
    left_out = config.option.markexpr == "not model" or importlib.util.find_spec("torch") is None
    return True if left_out and collection_path.suffix == ".py" and uses_torch(collection_path) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs PyTorch by what shows it: the module's imports, and models that are traced and exported."""
    for item in items:
        if uses_torch(item.path) or "shared_folder" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.model)


@pytest.fixture(scope="session")
def mx() -> Mx:
    """Run `mx` with arguments; the result has returncode, stdout and stderr (bytes)."""
    return commands.mx


@pytest.fixture
def exact_int8() -> None:
    """Skip what expects exact products of bytes, on a processor on which ONNX Runtime lets them overflow."""
    if int8_overflows():
        pytest.skip("sums of products of unsigned and signed bytes overflow on this processor")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Return a running Chromium."""
    with browsing.chromium() as running:
        yield running


@pytest.fixture
def open_page(browser: Any) -> Iterator[browsing.Open]:
    """Open pages in Chromium; afterwards the console must be empty, and nothing was fetched."""
    with browsing.opening(browser) as open_:
        yield open_


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
