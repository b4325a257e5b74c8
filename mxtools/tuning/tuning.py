"""Tuning: find the smallest model, or the fastest, that meets a target, given a tagged model and sets of inputs."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from mxtools.errors import InputError, UsageError
from mxtools.files.atomic import write_text
from mxtools.files.json_text import decoded
from mxtools.files.regular import read_regular
from mxtools.files.temporary import Scratch
from mxtools.functions.folded import is_folded
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes.selection import Selection
from mxtools.strategies.wrap import carried
from mxtools.tuning.judging import Verdict, judge, judged_outputs, takes_sets
from mxtools.tuning.metrics import METRICS, Metric, Target, target
from mxtools.tuning.own_errors import Measured
from mxtools.tuning.quantisers import Options, quantisers
from mxtools.tuning.rehearsal import Rehearsal
from mxtools.tuning.results import Counts, Held, M, Tuned
from mxtools.tuning.samples import Samples, Set
from mxtools.tuning.search import Search
from mxtools.tuning.units import Units
from mxtools.tuning.workshop import Evaluation, Workshop, weight_bytes

BUDGET = 20
"""How many evaluations a search may make if a request does not say."""
DEFAULT = ("int8",)
"""The precisions that units may have if a request does not say."""


@dataclass(frozen=True)
class Request:
    """What is asked of a search.

    Attributes: `target`, as a text: of a metric, "sqnr>=30" (dB), or of a user's `function`, ">=0.99*base" (see
    `metrics.target`); `precisions` that units may have besides float32; `options` of the quantisers; `function`, which
    gets a session of ONNX Runtime, and the sets too if it takes them; `outputs`, the names of those that are compared,
    by default what `judging.judged_outputs` chooses; `budget`, how many models may be made and judged, at least 1;
    `selection` and `operators`, the modules and the types of nodes that may be changed, by default all; `state`, a file
    that keeps what was found, and from which a later search continues; `minimise`, what the search makes small,
    the bytes of the weights or the time of a run.
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
    minimise: Literal["bytes", "time"] = "bytes"


def tune(
    model: M,
    samples: Samples,
    request: Request,
    told: Callable[[Evaluation], object] = lambda _: None,
) -> Tuned[M]:
    """Find the smallest model that meets a target; return it with all that was found.

    If no model meets the target, the one with the least damage is returned, and its `met` is false. `told` is called
    after each evaluation for which a model was made. KeyboardInterrupt ends the search, and the best model so far is
    returned; it is raised again if there is none yet.

    Raises UsageError if the request makes no sense, or its state file is of another search; InputError if the model has
    no scopes, is folded or does not run, if the state file is damaged, or if no model could be made.
    """
    if request.budget < 1:
        raise UsageError(f"the budget is {request.budget}", "allow one evaluation or more")
    if request.minimise not in ("bytes", "time"):
        raise UsageError(f"there is no {request.minimise!r} to be minimised", "give bytes or time")
    if is_folded(model):
        raise InputError("modules of the model are functions, into which quantisers do not look", "unfold it first")
    begun, wanted = time.monotonic(), target(request.target, judged=request.function is not None)
    units = Units(model, quantisers(request.precisions, request.options), request.selection, request.operators)
    metric = None if request.function else METRICS[wanted.metric]
    names = judged_outputs(model, metric, request.outputs)
    judging = judge(model, samples.seen, wanted, request.function, names)

    def met(verdict: Verdict) -> bool:
        """Return whether a verdict meets the target even if the judge's noise made it look better."""
        return wanted.met(verdict.value, judging.base, judging.noise)

    with Scratch() as folder:
        workshop = Workshop(units, samples, judging, met, folder, request.minimise == "time")
        search, state = _search(workshop, metric, request, names, _allowed(wanted, request, judging.base), told)
        interrupted = False
        try:
            search.run()
        except KeyboardInterrupt:
            interrupted = True
        state.save()
        chosen = search.best or _nearest(search)
        result = _made(model, workshop, chosen)
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
) -> tuple[Search, _State]:
    """Return a search, and its state file, which it begins with if the request names one, and keeps up to date."""
    comparable = metric is not None and metric.allowed is not None
    rehearsal = Rehearsal(workshop, metric, names, allowed if comparable else None)
    state = _State(request, workshop, rehearsal, names)

    def made(evaluation: Evaluation) -> None:
        """Save the state after an evaluation, and tell the caller."""
        state.save()
        told(evaluation)

    workshop.made = made
    return Search(workshop, rehearsal, allowed, request.budget, comparable), state


def _allowed(wanted: Target, request: Request, base: float) -> float:
    """Return the damage that a target allows, given the value of the model as it is.

    For a user's function that is how much worse than `base` the value may be; for top1 it is 1 - value.
    """
    value = wanted.at(base)
    if request.function:
        return base - value if wanted.rises else value - base
    found = METRICS[wanted.metric].allowed
    return found(value) if found else 1 - value


def _nearest(search: Search) -> Evaluation:
    """Return the evaluation with the least damage, for a target that no model meets.

    Raises InputError if no model could be made or run, KeyboardInterrupt if there is no evaluation.
    """
    found = search.nearest
    if found is None:
        raise KeyboardInterrupt
    if found.verdict.problem:
        raise InputError(found.verdict.problem, "give other precisions")
    return found


def _made(model: M, workshop: Workshop, chosen: Evaluation) -> M:
    """Return the model of an evaluation with the tags, and the name, of the model that it was made from."""
    tagged, _ = carried(cast(M, workshop.result(chosen)), model)
    tagged.name = model.name
    return tagged


def _held(
    model: WorkingModel, made: WorkingModel, sets: Sequence[Set], wanted: Target, request: Request, names: Sequence[str]
) -> Held | None:
    """Judge the chosen model on sets that the search never saw; None if a user's function brings its own inputs."""
    if request.function and not takes_sets(request.function):
        return None
    judging = judge(model, sets, wanted, request.function, names)
    verdict = judging.verdict(made)
    return Held(judging.base, verdict.value, verdict.noise, wanted.met(verdict.value, judging.base))


class _State:
    """A file that keeps evaluations and what was measured, so that the next search continues from there.

    It is JSON: `key`, a digest of what the evaluations depend on; `evaluations`; and `measured`, null if nothing was.
    """

    def __init__(self, request: Request, workshop: Workshop, rehearsal: Rehearsal, names: Sequence[str]) -> None:
        """Read the file, if there is one; InputError if it is no such file, UsageError if it is of another search."""
        self._path, self._workshop, self._rehearsal = request.state, workshop, rehearsal
        if not self._path:
            return
        self._key = _digest(request, workshop, names)
        if self._path.exists():
            self._read(self._path)

    def _read(self, path: Path) -> None:
        """Give the workshop and the rehearsal what a file has."""
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
        """Write what is known by now to the file, if the request names one."""
        if self._path:
            known = [asdict(each) for each in self._workshop.known.values()]
            measured = self._rehearsal.known and asdict(self._rehearsal.known)
            write_text(json.dumps({"key": self._key, "evaluations": known, "measured": measured}) + "\n", self._path)


def _evaluation(data: Mapping[str, Any]) -> Evaluation:
    """Return an evaluation as a state file has it."""
    verdict = Verdict(**data["verdict"])
    return Evaluation(dict(data["precisions"]), int(data["size"]), verdict, bool(data["met"]), data["seconds"])


def _digest(request: Request, workshop: Workshop, names: Sequence[str]) -> str:
    """Return a digest of what evaluations depend on: the model, the seen sets, and what is wanted.

    A user's function counts by its name and the file that it is in, not by what that imports; a command by its text.
    """
    digest = hashlib.sha256(version("onnxruntime").encode())
    for file in sorted(workshop.source.parent.glob(f"{workshop.source.name}*")):  # the weights may be in a second file
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    for each in workshop.samples.seen:
        for name in sorted(each):
            array = np.asarray(each[name])
            digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    function = None
    if request.function:
        named = request.function if hasattr(request.function, "__qualname__") else type(request.function)
        digest.update(_code_around(named))
        function = named.__qualname__
    units = [unit.name for unit in workshop.units.all]
    if request.minimise == "time":
        digest.update(f"{platform.node()} {platform.processor()} {os.cpu_count()}".encode())
    told = [
        request.target,
        request.minimise,
        list(request.precisions),
        asdict(request.options),
        function,
        list(names),
        units,
    ]
    digest.update(json.dumps(told, default=str).encode())
    return digest.hexdigest()


def _code_around(function: Callable[..., Any]) -> bytes:
    """Return what is in the file of a function or a class, nothing if there is none."""
    try:
        return Path(inspect.getsourcefile(function) or "").read_bytes()
    except (OSError, TypeError):
        return b""
