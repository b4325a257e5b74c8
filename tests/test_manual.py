"""The manual page and the skill file: they name every command and option, render, and are installed."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
import zipfile
from pathlib import Path

import pytest
import setuptools.build_meta

from mxtools_cli.main import COMMANDS, load
from tests.support.paths import ENVIRONMENT, ROOT

PAGE = ROOT / "docs" / "mx.1"
SKILL = ROOT / "docs" / "agents" / "mxtools" / "SKILL.md"
WIDE = {**ENVIRONMENT, "MANWIDTH": "500", "MANPAGER": "cat", "LC_ALL": "C.UTF-8"}


@pytest.mark.skipif(not shutil.which("man"), reason="there is no man")
def test_the_manual_page_renders_with_every_option_and_example() -> None:
    done = subprocess.run(["man", "--warnings", "-l", PAGE], capture_output=True, env=WIDE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    shown = " ".join(done.stdout.split())
    for name in COMMANDS:
        command = load(name)
        assert f"mx {name} " in shown
        for parameter in command.params:
            assert all(option in shown for option in parameter.opts if option.startswith("--"))
        for example in re.findall(r"Example: (.*)", command.help):
            assert " ".join(example.split()) in shown


@pytest.mark.filterwarnings("ignore::UserWarning")  # of setuptools, of the folder with the page of `mx view`
def test_the_wheel_has_the_manual_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied = tmp_path / "project"
    for name in ("mxtools", "cli", "explorer"):
        shutil.copytree(ROOT / name, copied / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "docs/mx.1"):
        (copied / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, copied / name)
    monkeypatch.chdir(copied)
    wheel = tmp_path / setuptools.build_meta.build_wheel(str(tmp_path))
    with zipfile.ZipFile(wheel) as file:
        page = next(name for name in file.namelist() if name.endswith(".data/data/share/man/man1/mx.1"))
        assert file.read(page) == PAGE.read_bytes()
        assert "mxtools_cli/agents/server.py" in file.namelist()


def test_the_skill_names_every_command_and_fits_its_folder() -> None:
    text = SKILL.read_text()
    head, name = text.split("---\n")[1], SKILL.parent.name
    assert f"name: {name}\n" in head
    assert len(head) < 1024
    assert all(f"\n### {name}\n" in text for name in COMMANDS)


def test_extras_of_the_texts_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for file in (SKILL, ROOT / "docs" / "agents.md", ROOT / "docs" / "cli.md"):
        assert set(re.findall(r"onnx-mxtools\[(\w+)\]", file.read_text())) <= extras.keys()
