"""A job of a fleet, one model by one exporter and one tool, and the report that it leaves, also if it fails.

The pydantic models below are the schemas; `docs/job.schema.json` and `docs/jobs.schema.json` are generated from them.
"""

from __future__ import annotations

import shlex
from collections import Counter
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema, model_validator

from mxtools.errors import InputError
from mxtools.files.json_text import decoded, validated
from mxtools.files.regular import read_bytes, read_toml

ENDING = ".job.json"
"""The end of the name of every report, by which a folder is searched."""


class FailureClass(StrEnum):
    """Why a step failed: what the exit status of a command means, or how its process ended."""

    NO = "no"
    USAGE = "usage"
    INPUT = "input"
    ABSENT = "absent"
    FAULT = "fault"
    INTERRUPTED = "interrupted"
    TIMEOUT = "timeout"
    KILLED = "killed"
    CRASH = "crash"
    OTHER = "other"
    BLOCKED = "blocked"


MEANINGS = {
    FailureClass.NO: "the answer is no: a check failed (exit status 1)",
    FailureClass.USAGE: "wrong usage, or nothing matched (2)",
    FailureClass.INPUT: "a model, a file or a tool cannot be used (3)",
    FailureClass.ABSENT: "the module is not in the graph (4)",
    FailureClass.FAULT: "a fault of mxtools itself (70)",
    FailureClass.INTERRUPTED: "somebody stopped it",
    FailureClass.TIMEOUT: "it took longer than it may",
    FailureClass.KILLED: "it was killed, often because memory was short",
    FailureClass.CRASH: "a library crashed",
    FailureClass.OTHER: "it ended with another status",
    FailureClass.BLOCKED: "a job that it needs has failed",
}
PASSING = frozenset({FailureClass.INTERRUPTED, FailureClass.TIMEOUT, FailureClass.KILLED})
"""What may pass when it is tried again; everything else fails the same way each time."""


_WRITTEN = {"anyOf": [{"type": "number"}, {"enum": ["Infinity", "-Infinity"], "type": "string"}]}
Number = Annotated[float, WithJsonSchema(_WRITTEN)]
"""A number; infinities, which JSON lacks, are written as texts."""


class _JobRecord(BaseModel):
    model_config = ConfigDict(frozen=True, populate_by_name=True, ser_json_inf_nan="strings")


class Failure(_JobRecord):
    """Why a job failed."""

    kind: Annotated[FailureClass, Field(alias="class")]
    step: Annotated[str, Field(description="the step that failed; empty if none was run")]
    status: Annotated[int | None, Field(description="its exit status, negative for a signal; null if it did not end")]
    problem: Annotated[str, Field(description="what is wrong and where")]
    remedy: Annotated[str, Field(description="what to do; empty if there is no advice")] = ""
    log: Annotated[str, Field(description="the last lines on stderr")] = ""


class StepReport(_JobRecord):
    """A step that was run."""

    name: str
    line: Annotated[tuple[str, ...], Field(description="the command with its arguments")]
    status: Annotated[int | None, Field(description="its exit status, negative for a signal")]
    seconds: float
    memory: Annotated[int, Field(description="peak memory of its process in bytes, with libraries; 0 if not known")]


class JobReport(_JobRecord):
    """What a job came to."""

    schema_: Annotated[Literal["mxtools.job/1"], Field(alias="schema")] = "mxtools.job/1"
    model: str
    exporter: str
    tool: Annotated[str, Field(description="what made the model from the exported one; empty for the export itself")]
    failure: Failure | None
    steps: tuple[StepReport, ...]
    figures: Annotated[dict[str, Number], Field(description="what was measured, by name")]
    pages: Annotated[tuple[str, ...], Field(description="pages to look at, from the folder of the report")]
    attempts: Annotated[int, Field(ge=0, description="how often it was tried, but for those that the user stopped")]
    plan: Annotated[str, Field(description="digest of the job's steps, by which a changed job is done again")]
    versions: Annotated[tuple[str, ...], Field(description="packages and their versions")]

    @property
    def key(self) -> tuple[str, str, str]:
        """Which job it is: model, exporter and tool."""
        return self.model, self.exporter, self.tool

    @property
    def seconds(self) -> float:
        """How long all steps took."""
        return sum(step.seconds for step in self.steps)

    @property
    def memory(self) -> int:
        """The highest peak of all steps, in bytes."""
        return max((step.memory for step in self.steps), default=0)


def _words(value: object) -> object:
    return shlex.split(value) if isinstance(value, str) else value


class Step(_JobRecord):
    """A command to run."""

    name: str
    line: Annotated[
        tuple[str, ...],
        BeforeValidator(_words, json_schema_input_type=str | tuple[str, ...]),
        Field(min_length=1, description="the command with its arguments; a text is split as by a shell"),
    ]


class Job(_JobRecord):
    """What to do for a model, an exporter and a tool."""

    model_config = ConfigDict(extra="forbid")

    model: str
    exporter: str = ""
    tool: str = ""
    report: Annotated[str, Field(pattern=rf"{ENDING.replace('.', r'[.]')}$", description="the file to leave")]
    needs: Annotated[tuple[str, ...], Field(description="reports of jobs that must have succeeded")] = ()
    steps: Annotated[tuple[Step, ...], Field(min_length=1)]
    result: Annotated[str, Field(description="the model that it makes, whose bytes are measured")] = ""
    pages: Annotated[tuple[str, ...], Field(description="pages to look at that it makes")] = ()
    seconds: Annotated[float | None, Field(gt=0, description="how long a step may take")] = None


class Jobs(_JobRecord):
    """Jobs to do one after the other."""

    model_config = ConfigDict(extra="forbid")

    schema_: Annotated[Literal["mxtools.jobs/1"], Field(alias="schema")] = "mxtools.jobs/1"
    jobs: tuple[Job, ...]

    @model_validator(mode="after")
    def _have_own_reports(self) -> Self:
        for report, count in Counter(job.report for job in self.jobs).items():
            if count > 1:
                raise ValueError(f"{count} jobs have the report {report}")
        return self


def read_jobs(file: Path) -> Jobs:
    """Return the jobs in a file, JSON or TOML (by its name); InputError if it holds something else."""
    try:
        if file.suffix == ".toml":
            return Jobs.model_validate(read_toml(file))
        return validated(Jobs, read_bytes(file), str(file))
    except ValidationError as error:
        raise InputError(f"{file} is no list of jobs: {_first(error)}", "see docs/jobs.schema.json") from None


def read_report(file: Path) -> JobReport:
    """Return the report in a file; InputError if it is something else."""
    try:
        return validated(JobReport, read_bytes(file), str(file))
    except ValidationError as error:
        raise InputError(f"{file} is no report of a job: {_first(error)}", "remove it, and do the job again") from None


def text_of(report: JobReport) -> str:
    """Return a report as JSON text."""
    return report.model_dump_json(by_alias=True, indent=1) + "\n"


def schemas() -> dict[str, dict[str, Any]]:
    """Return the JSON Schemas of reports and of lists of jobs, by the names of their files."""
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return {
        "job.schema.json": dialect | JobReport.model_json_schema(by_alias=True, mode="serialization"),
        "jobs.schema.json": dialect | Jobs.model_json_schema(by_alias=True),
    }


def said_by(stderr: bytes, line_of: str) -> tuple[str, str]:
    """Return problem and remedy from what a command said: an object with --json, else its last line.

    `line_of` is the command's name, with which its messages begin.
    """
    last = next((text for text in reversed(stderr.decode(errors="replace").splitlines()) if text.strip()), "")
    try:
        error = decoded(last)["error"]
        return str(error["problem"]), str(error["remedy"])
    except (ValueError, TypeError, KeyError):
        return last.strip().removeprefix(f"mx {line_of}: "), ""


def _first(error: ValidationError) -> str:
    """Return the first fault that pydantic found, with its place."""
    found = error.errors(include_url=False, include_context=False)[0]
    place = ".".join(map(str, found["loc"]))
    return f"{place}: {found['msg']}" if place else str(found["msg"])
