"""Whether an export computes the same as PyTorch: on the inputs with which it was made, and on others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mxtools.graph.index import graph_inputs
from mxtools.graph.shapes import Array
from mxtools.pipeline.working_model import WorkingModel
from mxtools.pytorch.eval_mode import copied, settled
from mxtools.pytorch.exporting.exporters import axes_of
from mxtools.pytorch.exporting.other_inputs import trials
from mxtools.pytorch.fingerprint import array_of
from mxtools.pytorch.nested import tensors
from mxtools.pytorch.subject import Subject
from mxtools.runtime.distance import distance
from mxtools.runtime.quiet import quiet
from mxtools.runtime.sessions import run_model

CLOSE = 1e-3
"""Largest difference of an export's outputs from PyTorch's, relative to the largest value: exporters reorder sums."""


@dataclass(frozen=True)
class Agreement:
    """The kinds of inputs on which an export returns what PyTorch returns; `wrong` says where it does not."""

    kinds: tuple[str, ...] = ()
    wrong: str = ""

    def __str__(self) -> str:
        """Return the kinds in words."""
        return ", ".join(self.kinds) or "nothing, because the model returns something else in every run"


def agreement(subject: Subject, model: WorkingModel) -> Agreement:
    """Run an export and PyTorch on the subject's inputs and on others, until they differ.

    Other inputs that PyTorch refuses are left out. The results of a model that is random are not compared. Raises
    InputError if ONNX Runtime cannot run the export.
    """
    kinds: list[str] = []
    for trial in trials(subject.inputs, axes_of(model.proto), subject.interface.steps):
        for inputs in trial.choices:
            wanted = returned(subject, inputs)
            if wanted is not None:
                wrong = _wrong(run_model(model.proto, model.weights, _feeds(model, inputs)), wanted)
                if wrong and _is_random(subject, inputs, wanted):
                    return Agreement()
                if wrong:
                    return Agreement(tuple(kinds), f"on {trial.kind} output {wrong!r} differs from PyTorch's")
                kinds.append(trial.kind)
                break
    return Agreement(tuple(kinds))


def returned(subject: Subject, inputs: dict[str, Any], seed: int = 0) -> list[Array] | None:
    """Return the model's results for inputs, in the order of a graph's outputs; None if it raises.

    If no element is finite, the results say nothing, and count as a refusal too.
    """
    with quiet(), settled(subject.model), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            result = subject.model(**subject.interface.arguments(copied(inputs)))
        except Exception:  # anything that the model's own code raises for inputs for which it was not made
            return None
        found = [array_of(tensor) for _, tensor in tensors(subject.interface.results(result))]
    floats = [array for array in found if array.dtype.kind == "f" and array.size]
    return None if floats and not any(np.isfinite(array).any() for array in floats) else found


def _feeds(model: WorkingModel, inputs: dict[str, Any]) -> dict[str, Array]:
    """Return inputs by their names in the graph; if these are not the model's names, they are in the same order."""
    arrays = {name: array_of(tensor) for name, tensor in tensors(inputs)}
    names = [value.name for value in graph_inputs(model.proto)]
    if set(names) <= arrays.keys() or len(names) != len(arrays):
        return arrays
    return dict(zip(names, arrays.values(), strict=True))


def _wrong(got: Mapping[str, Array], wanted: Sequence[Array]) -> str | None:
    """Return the first output that is not what PyTorch returned in its place; None if there is none.

    An exporter that returns a repeated tensor only once changes the places; then an output may equal any result.
    """
    in_place = len(got) == len(wanted)
    for place, (name, array) in enumerate(got.items()):
        if not any(_close(array, one) for one in ([wanted[place]] if in_place else wanted)):
            return name
    return None


def _close(found: Array, wanted: Array) -> bool:
    return found.shape == wanted.shape and distance(found, wanted).relative <= CLOSE


def _is_random(subject: Subject, inputs: dict[str, Any], wanted: Sequence[Array]) -> bool:
    """Return whether the model returns something else with another random seed."""
    other = returned(subject, inputs, seed=1)
    if other is None or len(other) != len(wanted):
        return True
    pairs = zip(other, wanted, strict=True)
    return not all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in pairs)
