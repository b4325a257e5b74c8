"""Judging a model: by its outputs beside those of the model that it was made from, or by a user's function."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from onnx import ModelProto, TensorProto, ValueInfoProto

from mxtools.errors import InputError, MxError, UsageError
from mxtools.graph.shapes import inferred_infos, is_typed
from mxtools.pipeline.working_model import WorkingModel
from mxtools.runtime.quiet import error_line, where_raised
from mxtools.runtime.scripts import find
from mxtools.runtime.session_values import run_session
from mxtools.runtime.sessions import Level, load_session, one_line_errors, session_options
from mxtools.tuning.metrics import METRICS, Metric, Outputs, Sums, Target, energies, noise_ratio
from mxtools.tuning.samples import Set, fed

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
"""The types of outputs that are compared."""
LEVEL = Level.ALL
"""Models are judged as they are used, optimised by ONNX Runtime."""


@dataclass(frozen=True)
class Verdict:
    """The value of a model, how much of it may be chance, and its damage; infinite where it does not run."""

    value: float
    noise: float
    damage: float
    problem: str = ""


class Judge(Protocol):
    """What judges models on sets of inputs; `base` is the value of the model as it is."""

    base: float
    noise: float

    def verdict(self, model: WorkingModel) -> Verdict:
        """Return the verdict on a model; InputError if it does not run."""


def opened(model: WorkingModel, level: Level = LEVEL) -> Any:  # noqa: ANN401 - an untyped library's session
    """Return a session of ONNX Runtime for a model."""
    return load_session(model.proto, model.weights, session_options(level))


def run(session: Any, model: WorkingModel, each: Set, names: Sequence[str]) -> Outputs:  # noqa: ANN401
    """Return outputs of a model on a set of inputs."""
    with one_line_errors():
        return dict(zip(names, run_session(session, names, fed(model.proto, each)), strict=True))


def judged_outputs(model: WorkingModel, metric: Metric | None, chosen: Sequence[str]) -> list[str]:
    """Return the outputs that are compared: those that are chosen, else all of floats, or of rows the first.

    Raises UsageError for an unknown one, or where none has floats.
    """
    known = [value.name for value in _outputs(model.proto) if value.type.tensor_type.elem_type in FLOATS]
    unknown = next((name for name in chosen if name not in known), None)
    if unknown is not None or not known:
        raise UsageError(
            f"the model has no output {unknown!r} of floats" if unknown else "the model has no output of floats",
            f"there are {', '.join(known)}" if known else "give a function by ⟨eval⟩",
        )
    return list(chosen) or (known[:1] if metric and metric.of_rows else known)


def _outputs(model: ModelProto) -> Iterable[ValueInfoProto]:
    """Return the outputs of a model with their types, those that a file lacks by inference."""
    outputs = model.graph.output
    found = {} if all(map(is_typed, outputs)) else inferred_infos(model)
    return [value if is_typed(value) else found.get(value.name, value) for value in outputs]


class OutputJudge:
    """Compares outputs with those of the model as it is."""

    def __init__(self, model: WorkingModel, sets: Sequence[Set], metric: Metric, names: Sequence[str]) -> None:
        """Run the model as it is on some sets."""
        self._metric, self._sets, self._names = metric, sets, names
        session = opened(model)
        self._wanted = [run(session, model, each, names) for each in sets]
        self.base = metric.total([metric.parts(wanted, wanted) for wanted in self._wanted])
        self.noise = 0.0

    def verdict(self, model: WorkingModel) -> Verdict:
        """Return the verdict on a model."""
        session, metric = opened(model), self._metric
        parts: list[dict[str, Sums]] = []
        noises: list[dict[str, Sums]] = []
        for each, wanted in zip(self._sets, self._wanted, strict=True):
            found = run(session, model, each, self._names)
            parts.append(metric.parts(found, wanted))
            noises.append({name: energies(found[name], wanted[name]) for name in wanted})
        value = metric.total(parts)
        if not math.isfinite(value) and not (metric.rises and value > 0):
            return Verdict(value, 0.0, math.inf)
        damage = metric.allowed(value) if metric.allowed else 1 - value
        return Verdict(value, metric.spread(parts), damage)


def damage_of(metric: Metric | None, found: Sequence[Outputs], wanted: Sequence[Outputs]) -> float:
    """Return the damage of outputs of several sets: that of a metric where it has one that adds up, else the noise."""
    if metric and metric.allowed:
        value = metric.total([metric.parts(f, w) for f, w in zip(found, wanted, strict=True)])
        return metric.allowed(value) if math.isfinite(value) or value == math.inf else math.inf
    names = wanted[0].keys()
    return max(noise_ratio([energies(f[n], w[n]) for f, w in zip(found, wanted, strict=True)]) for n in names)


class FunctionJudge:
    """Asks a user's function, `FILE.py:FUNCTION`, which takes a session, and sets of arrays if it takes two."""

    def __init__(self, model: WorkingModel, sets: Sequence[Set], function: Callable[..., Any], target: Target) -> None:
        """Ask for the model as it is twice: where the answers differ, so much is chance."""
        self._function, self._sets, self._rises = function, sets, target.rises
        values = [self._value(model) for _ in range(2)]
        self.base, self.noise = sum(values) / 2, abs(values[0] - values[1])

    def verdict(self, model: WorkingModel) -> Verdict:
        """Return the verdict on a model."""
        value = self._value(model)
        worse = self.base - value if self._rises else value - self.base
        return Verdict(value, self.noise, worse if math.isfinite(value) else math.inf)

    def _value(self, model: WorkingModel) -> float:
        session = opened(model)
        arguments = (session, [dict(each) for each in self._sets]) if takes_sets(self._function) else (session,)
        try:
            return float(np.asarray(self._function(*arguments)).item())
        except MxError:
            raise
        except Exception as error:
            raise InputError(
                f"the function of ⟨eval⟩ failed: {error_line(error)} ({where_raised(error)})", "fix it"
            ) from error


def takes_sets(function: Callable[..., Any]) -> bool:
    """Return whether a function takes sets of inputs besides a session."""
    return function.__code__.co_argcount > 1 if hasattr(function, "__code__") else True


def found_function(spec: str) -> Callable[..., Any]:
    """Return a user's function; UsageError where what the spec names cannot be called."""
    function = find(spec)
    if not callable(function):
        raise UsageError(f"{spec} is no function", "give FILE.py:FUNCTION, which takes a session and sets of inputs")
    return function  # type: ignore[no-any-return]  # what a user's file has


def judge(
    model: WorkingModel,
    sets: Sequence[Set],
    target: Target,
    function: Callable[..., Any] | None,
    names: Sequence[str],
) -> Judge:
    """Return what judges models by a target, on some sets."""
    if function:
        return FunctionJudge(model, sets, function, target)
    return OutputJudge(model, sets, METRICS[target.metric], names)
