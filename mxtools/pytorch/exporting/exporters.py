"""Options of torch's exporters, and results of their attempts; this file does not import torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from onnx import ModelProto
from onnx.defs import onnx_opset_version

from mxtools.errors import InputError, UsageError
from mxtools.graph.index import graph_inputs
from mxtools.pipeline.working_model import WorkingModel

Axes = Mapping[str, Mapping[int, str]]

OPSETS = {"torchscript": range(7, 24), "dynamo": range(7, onnx_opset_version() + 1)}
"""The operator sets that each exporter may write: those that torch names, up to the last one that onnx knows.

Dynamo itself writes 18 and later ones. It makes earlier ones by conversion, which fails for many models.
"""

_SHOWN = 3
"""The most names of kept tensors that are shown."""
CHEAPEST = "cheapest"
"""Chooses the exporter that takes the least time, and the other one if its graph is not accepted."""


@dataclass(frozen=True)
class Options:
    """How to export.

    Without `opset`, the exporter chooses the operator set. `dynamic` has the symbols of dynamic axes by input, `{"x":
    {0: "batch"}}`. Without any, `varying` makes axes of batch and sequence dynamic, if the exporter can do this and the
    result is right for other sizes. With `keep_modules`, the exporter folds nothing across modules.
    """

    opset: int | None = None
    dynamic: Axes = field(default_factory=dict)
    keep_modules: bool = False
    varying: bool = False


@dataclass(frozen=True)
class ExportAttempt:
    """An exporter's attempt: its name, its file, the cause of a failure in one line or None, and all its messages.

    `fixed` says where the model's code made a decision by a value. The graph cannot do this: it has the decision for
    the example inputs. `kept` names the tensors that the model keeps from one run to the next, and that change its
    results. The graph begins every run with the same ones. `static` says why axes that should vary do not.
    """

    exporter: str
    path: Path
    error: str | None = None
    log: str = ""
    fixed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    static: str = ""

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences that say where the graph does not do for other inputs, or later runs, what the model does."""
        decisions = (f"{place}: the graph uses that for all inputs" for place in self.fixed)
        if not self.kept:
            return tuple(decisions)
        names = ", ".join(f"`{name}`" for name in self.kept[:_SHOWN]) + (" …" if len(self.kept) > _SHOWN else "")
        remedy = "make it an input and an output to keep it"
        return (*decisions, f"the model carries {names} over from run to run, which the graph does not: {remedy}")

    def read(self) -> WorkingModel:
        """Return the exported model."""
        return WorkingModel.read(self.path, f"{self.exporter} export")


def in_turn(choice: str) -> tuple[str, ...]:
    """Return the exporters to try: the named one, or both for auto and cheapest.

    Auto begins with dynamo, which writes each node's module into the file and so leaves the least to infer. Cheapest
    begins with TorchScript, which takes a fraction of the time, and keeps the names of weights if nothing is folded.
    Raises UsageError for any other word.
    """
    orders = {"auto": ("dynamo", "torchscript"), CHEAPEST: ("torchscript", "dynamo")}
    if choice not in orders and choice not in OPSETS:
        raise UsageError(f"there is no exporter {choice!r}", f"there are {', '.join(['auto', *OPSETS])}")
    return orders.get(choice, (choice,))


def check_opset(choice: str, opset: int | None) -> None:
    """Raise UsageError if no exporter of a choice can write an operator set."""
    ranges = [OPSETS[name] for name in in_turn(choice)]
    if opset is not None and not any(opset in known for known in ranges):
        known = " or ".join(
            f"{r.start} to {r.stop - 1} ({name})" for name, r in zip(in_turn(choice), ranges, strict=True)
        )
        raise UsageError(f"no exporter writes operator set {opset} (⟨opset⟩)", f"give {known}")


def axes_of(proto: ModelProto) -> Axes:
    """Return the dynamic axes of a graph's inputs, with their symbols."""
    found = {
        value.name: {i: dim.dim_param for i, dim in enumerate(value.type.tensor_type.shape.dim) if dim.dim_param}
        for value in graph_inputs(proto)
    }
    return {name: symbols for name, symbols in found.items() if symbols}


def in_words(axes: Axes) -> str:
    """Return dynamic axes in words; inputs with the same axes stand together, numbered ones (`past.0`) only once.

    >>> in_words({"ids": {0: "batch", 1: "sequence"}, "past.0": {0: "batch"}, "past.1": {0: "batch"}})
    'batch, sequence of ids; batch of past.*'
    """
    alike: dict[str, dict[str, None]] = {}
    for name, symbols in axes.items():
        alike.setdefault(", ".join(symbols.values()), {})[re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name)] = None
    return "; ".join(f"{symbols} of {', '.join(names)}" for symbols, names in alike.items())


class ExportError(InputError):
    """No exporter could export the model; `attempts` has the error and the messages of each."""

    def __init__(self, model: str, attempts: list[ExportAttempt]) -> None:
        """Take the model's class and the failed attempts."""
        self.attempts = attempts
        causes = "; ".join(f"{attempt.exporter}: {attempt.error}" for attempt in attempts)
        tried = {attempt.exporter for attempt in attempts}
        left = [name for name in in_turn("auto") if name not in tried]
        remedy = f"try ⟨exporter-{left[0]}⟩" if left else "try other inputs (⟨input⟩) or ⟨opset⟩"
        super().__init__(
            f"{model} cannot be exported ({causes})",
            f"{remedy}, or see everything that the exporters print with ⟨log-file⟩",
        )
