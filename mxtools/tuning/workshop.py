"""Making models of assignments, and judging them; what was judged once is not made again."""

from __future__ import annotations

import logging
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mxtools.errors import InputError, MxError
from mxtools.files.temporary import Scratch
from mxtools.files.weights import bytes_of, tensors_of
from mxtools.files.writing import write_model
from mxtools.pipeline.working_model import WorkingModel
from mxtools.runtime.quiet import error_line, quiet
from mxtools.runtime.session_values import onnx_runtime
from mxtools.tuning.judging import Judge, Verdict
from mxtools.tuning.quantisers import Step
from mxtools.tuning.samples import Samples, fed
from mxtools.tuning.steps import run_steps
from mxtools.tuning.units import Assignment, Units, key_of


@dataclass(frozen=True)
class Evaluation:
    """A model that was made and judged: `precisions` by unit, `size` in bytes of weights, and the verdict."""

    precisions: dict[str, str]
    size: int
    verdict: Verdict
    met: bool

    @property
    def key(self) -> str:
        """What tells it from others."""
        return key_of(self.precisions)


def weight_bytes(model: WorkingModel) -> int:
    """Return the bytes of a model's weights."""
    return sum(map(bytes_of, tensors_of(model.proto)))


class Workshop:
    """Makes models in a folder, and judges them.

    `evaluations` are all that were asked for, in order; `known` has those of an earlier run too, by key, and `made` is
    called after each one that was really made.
    """

    def __init__(
        self, units: Units, samples: Samples, judge: Judge, met: Callable[[Verdict], bool], folder: Path
    ) -> None:
        """Write the model as it is to a folder."""
        self.units, self.samples, self._judge, self._met, self.folder = units, samples, judge, met, folder
        self.feeds = [fed(units.model.proto, each) for each in samples.seen]
        self.source = folder / "float.onnx"
        write_model(units.model.proto, units.model.weights, self.source)
        self.evaluations: list[Evaluation] = []
        self.known: dict[str, Evaluation] = {}
        self.made: Callable[[Evaluation], object] = lambda _: None

    def model(self, assignment: Assignment, folder: Path) -> WorkingModel:
        """Return the model of an assignment, whose weights are in a folder; InputError where a quantiser fails."""
        steps = self.units.steps(assignment)
        made = made_by(steps, self.source, folder, self.feeds, self.folder / "ranges.json")
        return type(self.units.model).read(made)

    def evaluate(self, assignment: Assignment) -> Evaluation:
        """Make and judge a model; one that a quantiser cannot make or that does not run has infinite damage."""
        key = key_of(assignment)
        if key not in self.known:
            self.known[key] = self._evaluated(assignment)
            self.made(self.known[key])
        evaluation = self.known[key]
        if evaluation not in self.evaluations:
            self.evaluations.append(evaluation)
        return evaluation

    def _evaluated(self, assignment: Assignment) -> Evaluation:
        with Scratch() as folder:
            size = weight_bytes(self.units.model)
            try:
                model = self.model(assignment, folder)
                size, verdict = weight_bytes(model), self._judge.verdict(model)
            except InputError as error:
                verdict = Verdict(float("nan"), 0.0, float("inf"), str(error))
        return Evaluation(dict(assignment), size, verdict, not verdict.problem and self._met(verdict))


def made_by(steps: Sequence[Step], source: Path, folder: Path, feeds: Sequence[dict[str, Any]], cache: Path) -> Path:
    """Return the file that steps make of a model; InputError where one fails, OSError where the system does."""
    kinds = ", ".join(dict.fromkeys(step["kind"] for step in steps))
    try:
        with _logging_kept(), quiet() as log, _temporary_in(folder):
            onnx_runtime()  # its telemetry is off, whoever imports it later
            made = run_steps(steps, source, folder, feeds, cache)
    except (MxError, OSError):  # a full disk says nothing of a model
        raise
    except Exception as error:  # of whatever quantises, which has no class in common
        last = next((line.strip() for line in reversed(log.text.splitlines()) if line.strip()), "")
        why = last if isinstance(error, subprocess.CalledProcessError) and last else error_line(error)
        raise InputError(
            f"the quantiser ({kinds}) failed: {why}", "leave out that precision, or that module"
        ) from error
    return made


@contextmanager
def _temporary_in(folder: Path) -> Iterator[None]:
    """Let quantisers put their temporary files into a folder that goes even if the process is killed."""
    kept, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = kept


@contextmanager
def _logging_kept() -> Iterator[None]:
    """Restore the settings of logging after the block: a quantiser changes those of the whole process."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
