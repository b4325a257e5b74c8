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
    """One pass that was run: how many seconds it took, whether it changed the graph, and what it reports."""

    step: Pass
    seconds: float
    changed: bool
    report: Report | None = None


@dataclass(frozen=True)
class PipelineReport(Report):
    """What became of each pass of a pipeline, in order."""

    kind: ClassVar[str] = "pipeline"

    steps: tuple[Step, ...]

    def last(self, kind: type[R]) -> R:
        """Return the last report of a kind; LookupError where no pass made one."""
        for step in reversed(self.steps):
            if isinstance(step.report, kind):
                return step.report
        raise LookupError(f"no pass of the pipeline reports {kind.kind!r}")

    def to_dict(self) -> dict[str, Any]:
        """Return the reports by kind; the second one of a kind has `@1` behind it, the third `@2`, as scopes do."""
        seen: Counter[str] = Counter()
        found = {}
        for report in (step.report for step in self.steps if step.report):
            count = seen[report.kind]
            found[f"{report.kind}@{count}" if count else report.kind] = report.to_dict()
            seen[report.kind] += 1
        return found


@dataclass(frozen=True)
class Pipeline(Pass):
    """Run passes one after the other."""

    name: ClassVar[str] = "pipeline"

    passes: tuple[Pass, ...]

    @classmethod
    def parse(cls, text: str) -> Pipeline:
        """Read a pipeline from its spec; UsageError says where it is wrong."""
        return cls(parse(text))

    def __str__(self) -> str:
        """Return the spec: options that have their default value are left out."""
        return ",".join(str(step) if isinstance(step, Pipeline) else spec_of(step) for step in self.passes)

    def apply(self, model: WorkingModel) -> PipelineReport:
        """Run the passes in order on `model`, in place, and write the annotations."""
        return self.run(model)

    def run(self, model: WorkingModel, observe: Callable[[Step], None] | None = None) -> PipelineReport:
        """Do what `apply` does; `observe` is told of each pass when it has run.

        An MxError that a pass raises gets a note that names it, and those that ran before it.
        """
        done: list[Step] = []
        for step in self._all():
            start, version = perf_counter(), model.version
            try:
                report = step.apply(model)
            except MxError as error:
                error.add_note(_where(step, done))
                raise
            done.append(Step(step, perf_counter() - start, model.version > version, report))
            if observe:
                observe(done[-1])
        model.write_annotations()
        return PipelineReport(tuple(done))

    def _all(self) -> Iterator[Pass]:
        """Yield the passes, each with those that have to follow it; what is in a pipeline inside comes in its place."""
        for step in self.passes:
            if isinstance(step, Pipeline):
                yield from step._all()
            else:
                yield step
                yield from parse(step.then) if step.then else ()


def _where(step: Pass, done: Sequence[Step]) -> str:
    before = ", ".join(one.step.name for one in done)
    return f"in the pass {step.name}" + (f", after {before}" if before else "")
