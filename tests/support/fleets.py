"""Reports of fleets that never ran, and the folders that hold them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mxtools.fleet.folder import Found
from mxtools.fleet.job import Failure, FailureClass, JobReport, StepReport, text_of

EXPORTERS = ("dynamo", "torchscript")
TOOLS = ("", "int8", "slim")
STEPS = ("trace", "export", "tag", "verify")
FIGURES = {"fidelity": 0.95, "error": 1e-4, "invalid": 0.0, "rootless": 0.0, "nodes": 400.0, "bytes": 5e6}


def report(model: str, exporter: str = "dynamo", tool: str = "", **fields: Any) -> JobReport:
    """Return the report of a job that succeeded, with other fields where they are given."""
    steps = tuple(StepReport(name=name, line=(name, model), status=0, seconds=4.0, memory=400 << 20) for name in STEPS)
    usual = {
        "failure": None,
        "steps": steps,
        "figures": FIGURES,
        "pages": ("view.html",),
        "attempts": 1,
        "plan": "0",
        "versions": ("torch 2",),
    }
    return JobReport(model=model, exporter=exporter, tool=tool, **(usual | fields))


def failing(job: JobReport, step: str, kind: FailureClass = FailureClass.INPUT, problem: str = "it fails") -> JobReport:
    """Return the report of the same job if it fails in a step; in none if it is blocked."""
    count = STEPS.index(step) + 1 if step else 0
    failure = Failure(kind=kind, step=step, status=3, problem=problem, remedy="mend it", log=f"mx {step}: {problem}\n")
    return job.model_copy(update={"failure": failure, "steps": job.steps[:count], "figures": {}, "pages": ()})


def changed_step(job: JobReport, name: str, **fields: Any) -> JobReport:
    """Return a report in which a step has other seconds or memory."""
    steps = tuple(step.model_copy(update=fields) if step.name == name else step for step in job.steps)
    return job.model_copy(update={"steps": steps})


def changed_figure(job: JobReport, name: str, value: float | None) -> JobReport:
    """Return a report with another figure, or without it."""
    figures = {key: old for key, old in job.figures.items() if key != name}
    return job.model_copy(update={"figures": figures | ({} if value is None else {name: value})})


def fleet(models: int) -> dict[tuple[str, str, str], JobReport]:
    """Return the reports of some models, with all exporters and tools, by job."""
    jobs = [report(f"model-{number}", e, t) for number in range(models) for e in EXPORTERS for t in TOOLS]
    return {job.key: job for job in jobs}


def found(jobs: Iterable[JobReport]) -> list[Found]:
    """Return reports as if they were found in files."""
    return [Found(file=name_of(job), job=job) for job in jobs]


def name_of(job: JobReport) -> str:
    return f"{job.model}/{job.exporter}/{job.tool or 'export'}/report.job.json"


def write(folder: Path, jobs: Iterable[JobReport]) -> Path:
    """Write reports to a folder, each with the page that it names; return the folder."""
    for job in jobs:
        file = folder / name_of(job)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text_of(job))
        for page in job.pages:
            (file.parent / page).write_text(f"<!doctype html><title>{' '.join(job.key)}</title>")
    return folder
