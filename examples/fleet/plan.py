"""The plan of a fleet: from models.toml the jobs, and the batches that Snakemake starts, each one process `mx batch`.

    runs/bert/trace.job.json                        the trace, once for a model
    runs/bert/torchscript/export.job.json           needs it
    runs/bert/torchscript/int8/int8.job.json        needs the export
    runs/batches/small-0.json                       the jobs of some small models, in this order
    runs/batches/large.torchscript.int8.json        one job of a model that is alone; its batch waits for the export's

Only the standard library is needed, so that Snakemake may have an environment of its own, with `mx` on the path.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

ENDING = ".job.json"
MEGABYTES, SECONDS = 4000, 120.0
"""What a job may need of which no earlier run has a report."""
ROOM = 1.5
"""A job gets so many times the memory and the time that it took before."""
START = 60.0
"""Seconds for a batch to start, and to import PyTorch on a slow disk."""

Job = dict[str, Any]


@dataclass(frozen=True)
class Batch:
    """Jobs that are done in one process, one after the other, and the batches whose jobs they need."""

    name: str
    jobs: tuple[Job, ...]
    before: tuple[str, ...]


class Plan:
    """The batches of a fleet."""

    def __init__(self, models: Path, runs: Path, earlier: Path | None = None, alone: bool = False) -> None:
        """Take the file with the models, the folders of reports and of an earlier run, and whether all are alone."""
        self.table = tomllib.loads(models.read_text())
        self.runs, self.earlier, self.alone = runs, earlier, alone

    @cached_property
    def batches(self) -> dict[str, Batch]:
        """The batches by name."""
        models: Mapping[str, Any] = self.table["models"]
        small = [name for name, model in models.items() if not (self.alone or model.get("alone"))]
        size = self.table["together"]
        found = [
            Batch(f"small-{at // size}", tuple(job for name in small[at : at + size] for job in self._jobs(name)), ())
            for at in range(0, len(small), size)
        ]
        for name in models:
            if name not in small:
                found += [self._single(job) for job in self._jobs(name)]
        return {batch.name: batch for batch in found}

    def write(self) -> None:
        """Write the lists of jobs for `mx batch`; one that did not change stays as it is.

        A batch of which a report is missing is no longer done, nor is the report of all.
        """
        folder = self.runs / "batches"
        folder.mkdir(parents=True, exist_ok=True)
        for batch in self.batches.values():
            file, text = folder / f"{batch.name}.json", json.dumps({"jobs": batch.jobs}, indent=1)
            if not file.exists() or file.read_text() != text:
                scratch = file.with_suffix(f".{os.getpid()}.tmp")
                scratch.write_text(text)
                scratch.replace(file)
            done = file.with_suffix(".done")
            if done.exists() and not all(Path(job["report"]).exists() for job in batch.jobs):
                done.unlink()
                (self.runs / "report.html").unlink(missing_ok=True)

    def megabytes(self, batch: str) -> int:
        """Return the memory that a batch may need: its jobs run one after the other."""
        peaks = [max(step["memory"] for step in steps) / 1e6 * ROOM for steps in self._earlier_steps(batch) if steps]
        unknown = [MEGABYTES] if len(peaks) < len(self.batches[batch].jobs) else []
        return round(max([*peaks, *unknown]))

    def minutes(self, batch: str) -> int:
        """Return the time that a batch may need."""
        took = [sum(step["seconds"] for step in steps) for steps in self._earlier_steps(batch) if steps]
        unknown = len(self.batches[batch].jobs) - len(took)
        return 1 + round((START + sum(took) * ROOM + unknown * SECONDS) / 60)

    def _earlier_steps(self, batch: str) -> Iterator[list[dict[str, Any]]]:
        """Yield the steps that the jobs of a batch had in the earlier run; none of a job without a report."""
        for job in self.batches[batch].jobs:
            file = (self.earlier or self.runs) / Path(job["report"]).relative_to(self.runs)
            yield json.loads(file.read_text())["steps"] if file.exists() else []

    def _single(self, job: Job) -> Batch:
        return Batch(_batch_of(job["report"], self.runs), (job,), tuple(_batch_of(n, self.runs) for n in job["needs"]))

    def _jobs(self, name: str) -> Iterator[Job]:
        """Yield the jobs of a model, each after those that it needs."""
        model = self.table["models"][name]
        place = self.runs / name
        words = {
            "spec": model.get("spec", f"models.py:{name}"),
            "options": model.get("options", ""),
            "trace": place / "trace.json",
        }
        trace = self._job(name, "", "", place, self.table["trace"], words, [])
        yield trace
        for exporter in self.table["exporters"]:
            folder = place / exporter
            words |= {"exporter": exporter, "tagged": folder / "export.onnx"}
            export = self._job(name, exporter, "", folder, self.table["export"], words, [trace["report"]])
            yield export
            for tool, steps in self.table.get("tools", {}).items():
                needs = [trace["report"], export["report"]]
                yield self._job(name, exporter, tool, folder / tool, steps, words, needs)

    def _job(
        self,
        model: str,
        exporter: str,
        tool: str,
        folder: Path,
        steps: Mapping[str, str],
        words: Mapping[str, object],
        needs: list[str],
    ) -> Job:
        stem = tool or ("export" if exporter else "trace")
        made, page = folder / f"{stem}.onnx", folder / f"{stem}.html"
        words = {**words, "tool": tool, "folder": folder, "made": made, "page": page}
        return {
            "model": model,
            "exporter": exporter,
            "tool": tool,
            "report": str(folder / f"{stem}{ENDING}"),
            "needs": needs,
            "steps": [{"name": name, "line": _filled(line, words)} for name, line in steps.items()],
            "result": str(made) if exporter else "",
            "pages": [str(page)] if exporter else [],
            "seconds": self.table.get("seconds"),
        }


def _filled(line: str, words: Mapping[str, object]) -> list[str]:
    """Return the words of a line, with those in braces that are known replaced; options may become several words."""
    found: list[str] = []
    for word in shlex.split(line):
        if word == "{options}":
            found += shlex.split(str(words["options"]))
        else:
            found.append(re.sub(r"\{(\w+)\}", lambda name: str(words.get(name[1], name[0])), word))
    return found


def _batch_of(report: str, runs: Path) -> str:
    """Return the name of the batch with the one job of a report."""
    return ".".join(Path(report).relative_to(runs).as_posix().removesuffix(ENDING).split("/"))
