"""The docs: generated parts are up to date, examples run, links lead somewhere."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from docs import samples
from mxtools.strategies import table
from mxtools.traces import sidecar
from tests.support.commands import mx, shell
from tests.support.pages import blocks, script
from tests.support.paths import ENVIRONMENT, ROOT
from tests.support.shared_models import Build, SharedFolder

PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


@pytest.fixture(scope="session")
def bert_folder(shared_folder: SharedFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a working directory with the Hugging Face folder `bert`."""

    def make(folder: Path) -> None:
        assert mx("demo", cwd=folder).returncode == 0

    return shutil.copytree(shared_folder.part("example", make), tmp_path_factory.mktemp("readme") / "example")


@pytest.mark.model
def test_generated_files_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "docs.generate", "--check"], cwd=ROOT, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


def test_sidecars_fit_the_committed_schema(built: Build) -> None:
    schema = json.loads((ROOT / "docs" / "trace.schema.json").read_text())
    assert schema == sidecar.schema()
    for name in ("bert", "repeated", "outputs"):
        jsonschema.validate(json.loads((built(name) / "trace.json").read_text()), schema)


def test_readme_runs_from_an_empty_folder(tmp_path: Path) -> None:
    done = shell(script("README.md"), tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    said = done.stdout.decode()
    assert "encoder.layer.3 BertLayer" in said
    line = [ROOT / "examples" / "compare.py", "bert", "encoder.layer.0", "layer0.onnx", "bert.tagged.onnx"]
    done = subprocess.run([sys.executable, *line], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.model
def test_pages_run_one_after_the_other_and_print_their_samples(tmp_path: Path) -> None:
    samples.run(samples.PREPARE, tmp_path)
    for page in samples.pages():
        written = page.read_text()
        found = samples.with_samples(written, tmp_path)
        assert samples.without_measures(found) == samples.without_measures(written), page.name


@pytest.mark.model
def test_notebooks_run_and_return_what_they_keep(tmp_path: Path) -> None:
    for notebook in samples.notebooks():
        found = samples.executed(notebook, tmp_path)
        assert samples.without_measures(found) == samples.without_measures(notebook.read_text()), notebook.name


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", tmp_path / "site"]
    environment = {**ENVIRONMENT, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "site" / "tutorial.html").exists()


def test_the_strategy_of_the_page_is_one(tmp_path: Path) -> None:
    (tmp_path / "mxtools.toml").write_text(blocks("docs/strategies.md", "toml")[0])
    assert table.known(tmp_path)["slim"].exporter == "torchscript"


def test_the_makefile_runs_again_where_the_model_changed(bert_folder: Path) -> None:
    make = ["make", "-f", ROOT / "examples" / "makefile" / "Makefile", "layer1.onnx", "MODEL=bert"]

    def said() -> str:
        return subprocess.run(make, cwd=bert_folder, env=ENVIRONMENT, capture_output=True, text=True, check=True).stdout

    assert "mx filter" in said()
    (bert_folder / "bert" / "README.md").touch()
    assert "up to date" in said()
    for name in ("model.safetensors", "config.json"):
        file = bert_folder / "bert" / name
        before = file.stat().st_mtime
        os.utime(file, (before + 1000, before + 1000))
        asked = subprocess.run([*make, "--dry-run"], cwd=bert_folder, capture_output=True, text=True, check=True)
        assert {"mx export", "mx trace", "mx filter"} <= {
            line[: line.find(" ", 3)] for line in asked.stdout.split("\n")
        }
        os.utime(file, (before, before))
    assert "up to date" in said()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert link.startswith("http") or (page.parent / link).exists(), link
