"""Judges of models: one compares outputs with those of the model as it is, one asks a user's function."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
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
"""The element types of outputs that can be compared."""
LEVEL = Level.ALL
"""How far ONNX Runtime optimises the models that are judged: fully, since that is how they are used."""


@dataclass(frozen=True)
class Verdict:
    """What a judge says of a model.

    Attributes: `value`, in the unit of the metric, or what the user's function returned, NaN if there is no model;
    `noise`, how much of it may be chance, in the same unit: of a metric the standard error (`Metric.spread`), of a
    function the difference of two answers; `damage`, infinite if the model does not run or its value is not finite;
    `problem`, why there is no value, empty if there is one.
    """

    value: float
    noise: float
    damage: float
    problem: str = ""


class Judge(Protocol):
    """What judges models on sets of inputs.

    Attributes: `base`, the value of the model as it is; `noise`, by how much a model must be better than the target,
    because the judge's answers differ by that much for the same model.
    """

    base: float
    noise: float

    def verdict(self, model: WorkingModel) -> Verdict:
        """Return the verdict on a model; raises InputError if it does not run."""


def opened(model: WorkingModel, level: Level = LEVEL) -> Any:  # noqa: ANN401 - an untyped library's session
    """Return a session of ONNX Runtime for a model; InputError if it cannot be loaded."""
    return load_session(model.proto, model.weights, session_options(level))


def run(session: Any, model: WorkingModel, each: Set, names: Sequence[str]) -> Outputs:  # noqa: ANN401
    """Return the outputs `names` of a model on a set of inputs; InputError if the run fails."""
    with one_line_errors():
        return dict(zip(names, run_session(session, names, fed(model.proto, each)), strict=True))


def judged_outputs(model: WorkingModel, metric: Metric | None, chosen: Sequence[str]) -> list[str]:
    """Return the names of the outputs that are compared: the chosen ones, else all outputs of floats.

    A metric of rows (`Metric.of_rows`) compares only the first of these. Without a metric, a user's function judges,
    and rehearsals compare all outputs if there are none of floats. Raises UsageError if a chosen output is not there or
    not of floats, or if there is a metric and the model has no output of floats at all.
    """
    outputs = _outputs(model.proto)
    known = [value.name for value in outputs if value.type.tensor_type.elem_type in FLOATS]
    known = known or [value.name for value in outputs if metric is None]
    unknown = next((name for name in chosen if name not in known), None)
    if unknown is not None or not known:
        raise UsageError(
            f"the model has no output {unknown!r} of floats" if unknown else "the model has no output of floats",
            f"there are {', '.join(known)}" if known else "give a function by ⟨eval⟩",
        )
    return list(chosen) or (known[:1] if metric and metric.of_rows else known)


def _outputs(model: ModelProto) -> Sequence[ValueInfoProto]:
    """Return the outputs of a model with their types; types that the file lacks are inferred."""
    outputs = model.graph.output
    found = {} if all(map(is_typed, outputs)) else inferred_infos(model)
    return [value if is_typed(value) else found.get(value.name, value) for value in outputs]


class OutputJudge:
    """The judge that compares outputs with those of the model as it is, by a metric."""

    def __init__(self, model: WorkingModel, sets: Sequence[Set], metric: Metric, names: Sequence[str]) -> None:
        """Run the model as it is on the sets, and keep its outputs `names`; InputError if it does not run."""
        self._metric, self._sets, self._names = metric, sets, names
        session = opened(model)
        self._wanted = [run(session, model, each, names) for each in sets]
        self.base = metric.total([metric.parts(wanted, wanted) for wanted in self._wanted])
        self.noise = 0.0

    def verdict(self, model: WorkingModel) -> Verdict:
        """Return the verdict on a model; raises InputError if it does not run."""
        session, metric = opened(model), self._metric
        parts: list[dict[str, Sums]] = []
        for each, wanted in zip(self._sets, self._wanted, strict=True):
            found = run(session, model, each, self._names)
            parts.append(metric.parts(found, wanted))
        value = metric.total(parts)
        if not math.isfinite(value) and not (metric.rises and value > 0):
            return Verdict(value, 0.0, math.inf)
        damage = metric.allowed(value) if metric.allowed else 1 - value
        return Verdict(value, metric.spread(parts), damage)


def damage_of(metric: Metric | None, found: Sequence[Outputs], wanted: Sequence[Outputs]) -> float:
    """Return the damage of outputs, which are one mapping for each set or piece, in the order of the `wanted` ones.

    It is the damage of the metric if that follows from its value. For other metrics and for a user's function it is the
    energy of the noise divided by that of the signal, of the output where this is largest.
    """
    if metric and metric.allowed:
        value = metric.total([metric.parts(f, w) for f, w in zip(found, wanted, strict=True)])
        return metric.allowed(value) if math.isfinite(value) or value == math.inf else math.inf
    names = wanted[0].keys()
    return max(noise_ratio([energies(f[n], w[n]) for f, w in zip(found, wanted, strict=True)]) for n in names)


class FunctionJudge:
    """The judge that asks a user's function: `function(session)` or `function(session, sets)` returns a number.

    `session` is one of ONNX Runtime; `sets` are dictionaries of arrays by name, with labels and the like too.
    """

    def __init__(self, model: WorkingModel, sets: Sequence[Set], function: Callable[..., Any], target: Target) -> None:
        """Call the function twice for the model as it is: `base` is the mean of the answers, `noise` their difference.

        Raises InputError if the function fails, or returns anything else than one number.
        """
        self._function, self._sets, self._rises = function, sets, target.rises
        values = [self._value(model) for _ in range(2)]
        self.base, self.noise = sum(values) / 2, abs(values[0] - values[1])

    def verdict(self, model: WorkingModel) -> Verdict:
        """Return the verdict on a model; its damage is by how much the value is worse than `base`, below 0 if better.

        Raises InputError if the model cannot be loaded or the function fails.
        """
        value = self._value(model)
        worse = self.base - value if self._rises else value - self.base
        return Verdict(value, self.noise, worse if math.isfinite(value) else math.inf)

    def _value(self, model: WorkingModel) -> float:
        """Return what the function says of a model."""
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
    """Return whether a function takes sets of inputs besides a session: it needs two arguments, or calls one `sets`."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # such as a function in C
        return True
    by_place = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = [p for p in by_place if p.default is p.empty or p.name == "sets"]
    return len(needed) > 1 or any(p.kind is p.VAR_POSITIONAL for p in parameters)


def found_function(spec: str) -> Callable[..., Any]:
    """Return the user's function that a text names, `FILE.py:FUNCTION`.

    Raises InputError if there is no such file or name, UsageError if what it names cannot be called.
    """
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
    """Return the judge of models on some sets: of a user's function if there is one, else of the target's metric."""
    if function:
        return FunctionJudge(model, sets, function, target)
    return OutputJudge(model, sets, METRICS[target.metric], names)
