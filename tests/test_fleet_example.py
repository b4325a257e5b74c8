"""The example of a fleet: its plan, and Snakemake that runs it, goes on after a loss, and does nothing twice."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from benchmarks.scoreboard import page
from mxtools.fleet.changes import changes
from mxtools.fleet.folder import gather
from mxtools.fleet.job import Jobs
from tests.support.fleets import changed_step, failing, report, write
from tests.support.paths import ENVIRONMENT, ROOT

EXAMPLE = ROOT / "examples" / "fleet"
SNAKEMAKE = shutil.which("snakemake", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
needs_snakemake = pytest.mark.skipif(
    SNAKEMAKE is None, reason="snakemake is not installed: pip install 'onnx-mxtools[fleet]'"
)
MODELS = """
exporters = ["torchscript"]
together = 2
seconds = 300
{steps}
[models.unet]
[models.broken]
spec = "models.py:none"
[models.resnet]
options = "--task 'image classification'"
alone = true
"""


def table(*parts: str) -> str:
    """Return some of the tables of the example's models.toml as text, with all that is in them."""
    text = (EXAMPLE / "models.toml").read_text()
    found = []
    for part in parts:
        start = text.index(f"[{part}]")
        found.append(text[start : text.index("\n\n", start)])
    return "\n".join(found)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a copy of the example with few models."""
    shutil.copytree(EXAMPLE, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "models.toml").write_text(MODELS.format(steps=table("trace", "export", "tools.onnxslim")))
    return tmp_path


def plan(folder: Path, **options: Any) -> Any:
    """Return the plan of a folder, with its lists of jobs written to `runs`."""
    spec = importlib.util.spec_from_file_location("plan", EXAMPLE / "plan.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["plan"] = module  # for its dataclasses
    spec.loader.exec_module(module)
    made = module.Plan(folder / "models.toml", folder / "runs", **options)
    made.write()
    return made


def test_small_models_share_a_process_and_large_ones_have_one_for_each_job(folder: Path) -> None:
    made = plan(folder)
    assert {name: batch.before for name, batch in made.batches.items()} == {
        "small-0": (),
        "resnet.trace": (),
        "resnet.torchscript.export": ("resnet.trace",),
        "resnet.torchscript.onnxslim.onnxslim": ("resnet.trace", "resnet.torchscript.export"),
    }
    assert len(made.batches["small-0"].jobs) == 6
    alone = plan(folder, alone=True)
    assert len(alone.batches) == 9
    assert {before for batch in alone.batches.values() for before in batch.before} <= alone.batches.keys()


def test_the_lists_of_jobs_are_what_batch_reads_and_each_job_comes_after_its_needs(folder: Path) -> None:
    plan(folder)
    for file in (folder / "runs" / "batches").glob("*.json"):
        jobs = Jobs.model_validate_json(file.read_text()).jobs
        places = {job.report: number for number, job in enumerate(jobs)}
        for job in jobs:
            assert all(places[need] < places[job.report] for need in job.needs if need in places)
            text = " ".join(word for step in job.steps for word in step.line)
            assert not [word for word in ("{spec}", "{trace}", "{made}", "{options}", "{page}") if word in text]
    trace = json.loads((folder / "runs" / "batches" / "resnet.trace.json").read_text())["jobs"][0]
    assert trace["steps"][0]["line"][:4] == ["trace", "models.py:resnet", "--task", "image classification"]


def test_a_list_that_did_not_change_is_not_written_again(folder: Path) -> None:
    plan(folder)
    file = folder / "runs" / "batches" / "resnet.trace.json"
    os.utime(file, (1, 1))
    plan(folder)
    assert file.stat().st_mtime == 1
    (folder / "models.toml").write_text((folder / "models.toml").read_text().replace("--task", "--input"))
    plan(folder)
    assert file.stat().st_mtime > 1


def test_resources_are_those_of_an_earlier_run(folder: Path) -> None:
    made = plan(folder)
    unknown = made.megabytes("resnet.trace"), made.minutes("resnet.trace")
    job = report("resnet", "", "")
    for step in job.steps:
        job = changed_step(job, step.name, seconds=600.0, memory=8 * 10**9)
    write(folder / "last", [job])
    (folder / "earlier" / "resnet").mkdir(parents=True)
    next((folder / "last").rglob("*.job.json")).rename(folder / "earlier" / "resnet" / "trace.job.json")
    known = plan(folder, earlier=folder / "earlier")
    assert (known.megabytes("resnet.trace"), known.minutes("resnet.trace")) == (12000, 62)
    assert unknown == (4000, 4)
    assert known.megabytes("small-0") == 4000


def test_the_example_is_whole() -> None:
    models = tomllib.loads((EXAMPLE / "models.toml").read_text())
    assert len(models["models"]) * (1 + len(models["exporters"]) * (1 + len(models["tools"]))) == 56


def test_the_scoreboard_is_made_of_reports(tmp_path: Path) -> None:
    jobs = [report("a"), failing(report("b"), "export"), report("", "", "")]
    text = page(write(tmp_path, jobs))
    assert "| dynamo |  | 2 | 1 | 0 | 0.9500 | 24 |" in text
    assert "| a |  |  |  |  | 0.9500 |  |  |  |" in text
    assert "| b |  |  |  |  |  |  |  |  |" in text
    assert "| b | dynamo |  | input: export: it fails |" in text
    kept = gather(ROOT / "docs" / "scoreboard" / "report.json")
    assert changes(kept, kept) == []
    rows = (ROOT / "docs" / "scoreboard" / "index.md").read_text()
    assert all(f"\n| {each.job.model} | " in rows for each in kept)


def snakemake(folder: Path, *options: str) -> str:
    """Run Snakemake; return what it says."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{ENVIRONMENT['PATH']}"
    done = subprocess.run(
        [str(SNAKEMAKE), "--cores", "1", *options],
        cwd=folder,
        env={**ENVIRONMENT, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def result(folder: Path) -> dict[str, str]:
    """Return what became of each job: the class of its failure, or done."""
    found = (each.job for each in gather(folder / "runs"))
    return {" ".join(filter(None, job.key)): job.failure.kind if job.failure else "done" for job in found}


@needs_snakemake
@pytest.mark.model
def test_snakemake_runs_it_and_goes_on_where_something_is_missing(folder: Path) -> None:
    text = (folder / "models.toml").read_text()
    (folder / "models.toml").write_text(text[: text.index("[models.resnet]")])
    assert "small-0" in snakemake(folder, "--dry-run")
    assert not (folder / "runs" / "report.html").exists()
    snakemake(folder)
    expected = {
        "unet": "done",
        "unet torchscript": "done",
        "unet torchscript onnxslim": "done",
        "broken": "input",
        "broken torchscript": "blocked",
        "broken torchscript onnxslim": "blocked",
    }
    assert result(folder) == expected
    trip = {each.job.key: each.job.figures for each in gather(folder / "runs")}
    assert trip["unet", "torchscript", ""]["fidelity"] == 1
    assert "unet" in (folder / "runs" / "report.txt").read_text()
    assert "Nothing to be done" in snakemake(folder)
    kept = folder / "runs" / "unet" / "torchscript" / "export.job.json"
    written = kept.stat().st_mtime_ns
    (folder / "runs" / "unet" / "torchscript" / "onnxslim" / "onnxslim.job.json").unlink()
    snakemake(folder)
    assert result(folder) == expected
    assert kept.stat().st_mtime_ns == written
    log = (folder / "runs" / "batches" / "small-0.log").read_text().splitlines()
    assert log[-1] == "mx batch: 1 jobs done, 5 were done before; 3 of all 6 failed"
