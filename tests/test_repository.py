"""The repository: tests share what lies in `tests/support`, and all packages are in the distribution."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PACKAGES = {"mxtools": "mxtools", "cli": "mxtools_cli", "explorer": "mxtools_explorer"}
"""The packages by their folders."""
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def imported(file: Path) -> Iterator[str]:
    """Yield the modules, by their full names, that a file imports, and what it imports from them."""
    package = file.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *filter(None, [node.module])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.name)
def test_no_test_module_is_imported(file: Path) -> None:
    for name in imported(file):
        last = name.split(".")[:2][-1]
        assert not (name.startswith("tests.") and (last.startswith("test_") or last == "conftest")), name


def test_every_package_is_in_the_distribution() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = [file.parent.relative_to(ROOT) for room in PACKAGES for file in (ROOT / room).rglob("__init__.py")]
    names = [".".join((PACKAGES[folder.parts[0]], *folder.parts[1:])) for folder in folders]
    assert sorted(listed) == sorted(names)
