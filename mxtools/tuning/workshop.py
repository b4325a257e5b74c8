"""The workshop makes models of assignments and has them judged; what was judged once is not made again."""

from __future__ import annotations

import logging
import math
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mxtools.errors import InputError, MxError
from mxtools.files.temporary import Scratch
from mxtools.files.weights import bytes_of, inline_within, tensors_of
from mxtools.files.writing import write_model
from mxtools.pipeline.working_model import WorkingModel
from mxtools.profile.alone import median_time
from mxtools.runtime.quiet import error_line, quiet
from mxtools.runtime.session_values import onnx_runtime
from mxtools.tuning.judging import Judge, Verdict, opened
from mxtools.tuning.quantisers import Step
from mxtools.tuning.samples import Samples, Set, fed
from mxtools.tuning.steps import run_steps
from mxtools.tuning.units import Assignment, Units, key_of

RUNS = 20
"""Runs that the time of a model or a unit is the median of."""


@dataclass(frozen=True)
class Evaluation:
    """A model that was made and judged.

    Attributes: `precisions`, by unit, without those in float32; `size`, the bytes of its weights, or those of the model
    as it is if none could be made; `verdict`, of the judge; `met`, whether the target is met; `seconds`, the median
    time of a run on the first set, None if the search is for few bytes.
    """

    precisions: dict[str, str]
    size: int
    verdict: Verdict
    met: bool
    seconds: float | None = None

    @property
    def cost(self) -> float:
        """What the search wants to be small: the seconds of a run if they were measured, else the bytes."""
        return self.size if self.seconds is None else self.seconds

    @property
    def key(self) -> str:
        """A text that is the same for equal precisions, and only for these."""
        return key_of(self.precisions)


def weight_bytes(model: WorkingModel) -> int:
    """Return the bytes of all tensors in a model: initializers and attributes, in bodies and functions too."""
    return sum(map(bytes_of, tensors_of(model.proto)))


class Workshop:
    """Makes models in a folder, and has them judged.

    Attributes: `evaluations`, all that were asked for, in order; `known`, evaluations by key, which may come from an
    earlier search too; `made`, a function that is called after each evaluation for which a model was really made, not
    for those that were known; `is_timed`, whether times of models and units are measured; `source`, the file of the
    model as it is; `feeds`, the inputs of the seen sets by name.
    """

    def __init__(
        self,
        units: Units,
        samples: Samples,
        judge: Judge,
        met: Callable[[Verdict], bool],
        folder: Path,
        is_timed: bool = False,
    ) -> None:
        """Write the model as it is to a folder; `met` says whether a verdict meets the target."""
        self.units, self.samples, self._judge, self._met, self.folder = units, samples, judge, met, folder
        self.is_timed = is_timed
        self.feeds = [fed(units.model.proto, each) for each in samples.seen]
        self.source = folder / "float.onnx"
        write_model(units.model.proto, units.model.weights, self.source)
        self.evaluations: list[Evaluation] = []
        self.known: dict[str, Evaluation] = {}
        self.made: Callable[[Evaluation], object] = lambda _: None
        self._best: tuple[Evaluation, WorkingModel] | None = None

    def model(self, assignment: Assignment, folder: Path) -> WorkingModel:
        """Return the model of an assignment, with its weights in files of `folder`; InputError if a quantiser fails."""
        steps = self.units.steps(assignment)
        made = made_by(steps, self.source, folder, self.feeds, self.folder / "ranges.json")
        return type(self.units.model).read(made)

    def evaluate(self, assignment: Assignment) -> Evaluation:
        """Return the evaluation of an assignment: make the model and judge it, unless it is known.

        A model that no quantiser can make, or that does not run, has an infinite damage and a problem in its verdict.
        """
        key = key_of(assignment)
        if key not in self.known:
            self.known[key] = self._evaluated(assignment)
            self.made(self.known[key])
        evaluation = self.known[key]
        if evaluation not in self.evaluations:
            self.evaluations.append(evaluation)
        return evaluation

    def _evaluated(self, assignment: Assignment) -> Evaluation:
        """Make and judge the model of an assignment; keep it if it is the best so far."""
        with Scratch() as folder:
            size, seconds = weight_bytes(self.units.model), math.inf
            try:
                model = self.model(assignment, folder)
                size, verdict = weight_bytes(model), self._judge.verdict(model)
                seconds = seconds_of(model, self.feeds[0]) if self.is_timed else 0.0
            except InputError as error:
                verdict = Verdict(float("nan"), 0.0, float("inf"), str(error))
            met = not verdict.problem and self._met(verdict)
            found = Evaluation(dict(assignment), size, verdict, met, seconds if self.is_timed else None)
            if met and (self._best is None or found.cost < self._best[0].cost):
                inline_within(model.proto, model.weights, folder)  # a file that is open can still be read
                self._best = found, model
        return found

    def result(self, chosen: Evaluation) -> WorkingModel:
        """Return the model of an evaluation; it is made again if it is not the best that was made here."""
        if self._best and self._best[0] == chosen:
            return self._best[1]
        with Scratch() as folder:
            model = self.model(chosen.precisions, folder)
            inline_within(model.proto, model.weights, folder)
        return model


def seconds_of(model: WorkingModel, feeds: Set) -> float:
    """Return the median time of a run of a model; InputError if it cannot be loaded or run."""
    return 1e-6 * median_time(opened(model), fed(model.proto, feeds), RUNS)


def made_by(steps: Sequence[Step], source: Path, folder: Path, feeds: Sequence[dict[str, Any]], cache: Path) -> Path:
    """Run steps on the model in the file `source`, and return the file of the result.

    `folder` gets all files that are made, `cache` the ranges of activations (`run_steps`). Raises InputError if a step
    fails, with the last line that the tool printed or its exception; OSError if the system fails.
    """
    kinds = ", ".join(dict.fromkeys(step["kind"] for step in steps))
    try:
        with _logging_kept(), quiet() as log, _temporary_in(folder):
            onnx_runtime()  # with its telemetry off, before a step imports it
            made = run_steps(steps, source, folder, feeds, cache)
    except (MxError, OSError):  # a full disk is not the fault of this assignment
        raise
    except Exception as error:  # tools have no class of exceptions in common
        last = next((line.strip() for line in reversed(log.text.splitlines()) if line.strip()), "")
        why = last if isinstance(error, subprocess.CalledProcessError) and last else error_line(error)
        raise InputError(
            f"the quantiser ({kinds}) failed: {why}", "leave out that precision, or that module"
        ) from error
    return made


@contextmanager
def _temporary_in(folder: Path) -> Iterator[None]:
    """Let quantisers put their temporary files into a folder that is removed even if the process is killed."""
    kept, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = kept


@contextmanager
def _logging_kept() -> Iterator[None]:
    """Restore the handlers and the level of the root logger after the block, since quantisers change them."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
