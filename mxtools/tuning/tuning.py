"""Tuning: from a tagged model, sets of inputs and a target to the smallest model that meets it."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mxtools.errors import InputError, UsageError
from mxtools.files.atomic import write_text
from mxtools.files.json_text import decoded
from mxtools.files.regular import read_regular
from mxtools.files.temporary import Scratch
from mxtools.files.weights import inline_within
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes.selection import Selection
from mxtools.strategies.wrap import carried
from mxtools.tuning.judging import Verdict, judge, judged_outputs, takes_sets
from mxtools.tuning.metrics import METRICS, Metric, Target, target
from mxtools.tuning.own_errors import Measured
from mxtools.tuning.quantisers import Options, quantisers
from mxtools.tuning.rehearsal import Rehearsal
from mxtools.tuning.results import Counts, Held, Tuned
from mxtools.tuning.samples import Samples, Set
from mxtools.tuning.search import Search
from mxtools.tuning.units import Units
from mxtools.tuning.workshop import Evaluation, Workshop, weight_bytes

BUDGET = 20
"""Evaluations that a search may make."""
DEFAULT = ("int8",)
"""The precisions that are tried where none is given."""


@dataclass(frozen=True)
class Request:
    """What is wanted.

    Attributes: `target`, of a metric or of a user's `function`; `precisions` that units may have, and `options` of the
    quantisers; `outputs` that are compared; `budget`, how many models may be made; `selection` and `operators`, what is
    tuned; `state`, a file that keeps what was found.
    """

    target: str
    precisions: Sequence[str] = DEFAULT
    options: Options = field(default_factory=Options)
    function: Callable[..., Any] | None = None
    outputs: Sequence[str] = ()
    budget: int = BUDGET
    selection: Selection | None = None
    operators: Sequence[str] = ()
    state: Path | None = None


def tune(
    model: WorkingModel,
    samples: Samples,
    request: Request,
    told: Callable[[Evaluation], object] = lambda _: None,
) -> Tuned:
    """Return the smallest model that a search finds to meet a target; `told` is called after each evaluation.

    An interrupt ends the search, and the best so far is returned. Raises UsageError where the request makes no sense,
    InputError where the model has no scopes or does not run, or where no model could be made.
    """
    begun, wanted = time.monotonic(), target(request.target, judged=request.function is not None)
    units = Units(model, quantisers(request.precisions, request.options), request.selection, request.operators)
    metric = None if request.function else METRICS[wanted.metric]
    names = judged_outputs(model, metric, request.outputs)
    judging = judge(model, samples.seen, wanted, request.function, names)

    def met(verdict: Verdict) -> bool:
        return wanted.met(verdict.value, judging.base, judging.noise)

    with Scratch() as folder:
        workshop = Workshop(units, samples, judging, met, folder)
        search = _search(workshop, metric, request, names, _allowed(wanted, request, judging.base), told)
        interrupted = False
        try:
            search.run()
        except KeyboardInterrupt:
            interrupted = True
        chosen = search.best or _nearest(search)
        result = _made(workshop, chosen)
        held = _held(model, result, samples.held, wanted, request, names)
    counts = Counts(
        len(workshop.evaluations), search.measured.probes if search.measured else 0, time.monotonic() - begun
    )
    return Tuned(
        result,
        units,
        wanted,
        judging.base,
        judging.noise,
        chosen,
        tuple(workshop.evaluations),
        search.measured,
        held,
        weight_bytes(model),
        counts,
        samples.origins,
        search.is_exhausted,
        interrupted,
    )


def _search(
    workshop: Workshop,
    metric: Metric | None,
    request: Request,
    names: Sequence[str],
    allowed: float,
    told: Callable[[Evaluation], object],
) -> Search:
    """Return a search that keeps what it finds in the file of the request, if there is one."""
    comparable = metric is not None and metric.allowed is not None
    rehearsal = Rehearsal(workshop, metric, names, allowed if comparable else None)
    state = _State(request, workshop, rehearsal, names)

    def made(evaluation: Evaluation) -> None:
        state.save()
        told(evaluation)

    workshop.made = made
    return Search(workshop, rehearsal, allowed, request.budget, comparable)


def _allowed(wanted: Target, request: Request, base: float) -> float:
    """Return the damage that a target allows; of a user's function it is the loss."""
    value = wanted.at(base)
    if request.function:
        return base - value if wanted.rises else value - base
    found = METRICS[wanted.metric].allowed
    return found(value) if found else 1 - value


def _nearest(search: Search) -> Evaluation:
    """Return the model that is nearest to a target that none meets; InputError where none could be made."""
    found = search.nearest
    if found is None:
        raise KeyboardInterrupt
    if found.verdict.problem:
        raise InputError(found.verdict.problem, "give other precisions")
    return found


def _made(workshop: Workshop, chosen: Evaluation) -> WorkingModel:
    """Return the model of an evaluation, tagged by the model that it was made from."""
    with Scratch() as folder:
        made = workshop.model(chosen.precisions, folder)
        inline_within(made.proto, made.weights, folder)
        tagged, _ = carried(made, workshop.units.model)
    return tagged


def _held(
    model: WorkingModel, made: WorkingModel, sets: Sequence[Set], wanted: Target, request: Request, names: Sequence[str]
) -> Held | None:
    """Judge the model that was chosen on sets that the search never saw; None where a function has its own."""
    if request.function and not takes_sets(request.function):
        return None
    judging = judge(model, sets, wanted, request.function, names)
    verdict = judging.verdict(made)
    return Held(judging.base, verdict.value, verdict.noise, wanted.met(verdict.value, judging.base))


class _State:
    """A file that keeps evaluations and what was measured, so that a search that was ended goes on where it was."""

    def __init__(self, request: Request, workshop: Workshop, rehearsal: Rehearsal, names: Sequence[str]) -> None:
        """Read the file, if there is one; InputError if it is of another search."""
        self._path, self._workshop, self._rehearsal = request.state, workshop, rehearsal
        if not self._path:
            return
        self._key = _digest(request, workshop, names)
        if self._path.exists():
            self._read(self._path)

    def _read(self, path: Path) -> None:
        try:
            found = decoded(read_regular(path, noted=False))
            is_same = found["key"] == self._key
            evaluations = [_evaluation(each) for each in found["evaluations"]]
            measured = Measured(**found["measured"]) if found["measured"] else None
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(f"{path} is no state of a search ({error})", "remove it, or give another file") from None
        if not is_same:
            raise UsageError(f"{path} is the state of another search", "remove it, or give another file")
        self._workshop.known.update({each.key: each for each in evaluations})
        self._rehearsal.known = measured

    def save(self) -> None:
        """Write what is known by now."""
        if self._path:
            known = [asdict(each) for each in self._workshop.known.values()]
            measured = self._rehearsal.known and asdict(self._rehearsal.known)
            write_text(json.dumps({"key": self._key, "evaluations": known, "measured": measured}) + "\n", self._path)


def _evaluation(data: Mapping[str, Any]) -> Evaluation:
    verdict = Verdict(**data["verdict"])
    return Evaluation(dict(data["precisions"]), int(data["size"]), verdict, bool(data["met"]))


def _digest(request: Request, workshop: Workshop, names: Sequence[str]) -> str:
    """Return a digest of all that evaluations depend on: the model, the sets, and what is wanted."""
    digest = hashlib.sha256()
    for file in sorted(workshop.source.parent.glob(f"{workshop.source.name}*")):  # the weights may be in a second file
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    for each in workshop.samples.seen:
        for name in sorted(each):
            array = np.asarray(each[name])
            digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    function = request.function and (request.function.__module__, request.function.__qualname__)
    units = [unit.name for unit in workshop.units.all]
    told = [request.target, list(request.precisions), asdict(request.options), function, list(names), units]
    digest.update(json.dumps(told, default=str).encode())
    return digest.hexdigest()
