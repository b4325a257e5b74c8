"""Pipelines: sequences of passes, which are passes themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, ClassVar, TypeVar

from mxtools.errors import MxError
from mxtools.pipeline.base import Pass, Report
from mxtools.pipeline.spec import parse, spec_of
from mxtools.pipeline.working_model import WorkingModel

R = TypeVar("R", bound=Report)


@dataclass(frozen=True)
class Step:
    """One pass that was run.

    Attributes: `step`, the pass; `seconds` that it took; `changed`, whether it changed the graph; `report`.
    """

    step: Pass
    seconds: float
    changed: bool
    report: Report | None = None


@dataclass(frozen=True)
class PipelineReport(Report):
    """What each pass of a pipeline did, in order."""

    kind: ClassVar[str] = "pipeline"

    steps: tuple[Step, ...]

    def last(self, report_class: type[R]) -> R:
        """Return the last report of a class; LookupError if no pass made one."""
        found = self.all(report_class)
        if not found:
            raise LookupError(f"no pass of the pipeline reports {report_class.kind!r}")
        return found[-1]

    def all(self, report_class: type[R]) -> list[R]:
        """Return the reports of a class, in order."""
        return [step.report for step in self.steps if isinstance(step.report, report_class)]

    def to_dict(self) -> dict[str, Any]:
        """Return the reports by kind; as in scopes, the second one of a kind has the suffix `@1`, the third `@2`."""
        seen: Counter[str] = Counter()
        reports = {}
        for report in (step.report for step in self.steps if step.report):
            count = seen[report.kind]
            reports[f"{report.kind}@{count}" if count else report.kind] = report.to_dict()
            seen[report.kind] += 1
        return reports


@dataclass(frozen=True)
class Pipeline(Pass):
    """Run passes one after the other."""

    name: ClassVar[str] = "pipeline"

    passes: tuple[Pass, ...]

    @classmethod
    def parse(cls, text: str) -> Pipeline:
        """Return the pipeline of a spec, `project-names,filter{scope=encoder}`; UsageError says where it is wrong."""
        return cls(parse(text))

    def __str__(self) -> str:
        """Return the spec: options that have their default value are left out."""
        return ",".join(str(step) if isinstance(step, Pipeline) else spec_of(step) for step in self.passes)

    def apply(self, model: WorkingModel) -> PipelineReport:
        """Run the passes in order on a model, in place, and write its annotations to the nodes."""
        return self.run(model)

    def run(self, model: WorkingModel, observe: Callable[[Step], None] | None = None) -> PipelineReport:
        """Do what `apply` does, and call `observe` after each pass that has run.

        An MxError that a pass raises gets a note that names the pass and those that ran before it.
        """
        done: list[Step] = []
        for step in self._all():
            start, version = perf_counter(), model.version
            try:
                report = step.apply(model)
            except MxError as error:
                error.add_note(_failed_pass(step, done))
                raise
            done.append(Step(step, perf_counter() - start, model.version > version, report))
            if observe:
                observe(done[-1])
        model.write_annotations()
        return PipelineReport(tuple(done))

    def _all(self) -> Iterator[Pass]:
        """Yield the passes, including those of inner pipelines, and after each pass those that have to follow it."""
        for step in self.passes:
            if isinstance(step, Pipeline):
                yield from step._all()
            else:
                yield step
                yield from parse(step.then) if step.then else ()


def _failed_pass(step: Pass, done: Sequence[Step]) -> str:
    """Return the note for an error: the pass that raised it, and the passes before it."""
    before = ", ".join(earlier.step.name for earlier in done)
    return f"in the pass {step.name}" + (f", after {before}" if before else "")
