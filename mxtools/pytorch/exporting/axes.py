"""Dynamic axes: which axes usually vary, and in what form torch.export takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from mxtools.errors import UsageError
from mxtools.pytorch.exporting.exporters import Axes
from mxtools.pytorch.nested import tensors

if TYPE_CHECKING:
    from mxtools.pytorch.subject import Subject


def usual_axes(subject: Subject, waves: bool = False) -> Axes:
    """Return the axes that usually vary: the first one of every input, and the second one of token ids and masks.

    With `waves`, the second axis of matrices of floats too.
    """
    found: dict[str, dict[int, str]] = {}
    for name, tensor in tensors(subject.inputs):
        if tensor.dim():
            has_length = tensor.dim() == 2 and (waves or not tensor.is_floating_point())
            found[name] = {0: "batch", 1: _length(name)} if has_length else {0: "batch"}
    found |= {name: dict(symbols) for name, symbols in subject.interface.axes().items()}
    return {name: symbols for name, symbols in found.items() if symbols}


def _length(name: str) -> str:
    """Return the symbol of a sequence's length; all inputs of a decoder share one."""
    return "decoder_sequence" if name.startswith("decoder_") else "sequence"


def check_axes(subject: Subject, axes: Axes) -> None:
    """Raise UsageError if a name is not an input of the subject, or an input has no such axis."""
    known = dict(tensors(subject.inputs))
    unknown = set(axes) - known.keys()
    if unknown:
        inputs = ", ".join(subject.inputs)
        raise UsageError(f"⟨dynamic⟩ names {min(unknown)!r}, which is not an input", f"there are {inputs}")
    for name, symbols in axes.items():
        if outside := sorted(symbols.keys() - range(known[name].dim())):
            shape = [*known[name].shape]
            raise UsageError(f"⟨dynamic⟩ names axis {outside[0]} of {name}, which has shape {shape}", "count from 0")


def shapes_for_torch(inputs: dict[str, Any], axes: Axes, must_vary: bool) -> dict[str, Any]:
    """Return the structure that torch.export takes: for each tensor, its dynamic axes.

    If axes need not vary, they stay static if the model's code needs their size; if they must vary, the export fails
    then.
    """

    def shapes(value: Any, name: str) -> Any:  # noqa: ANN401
        """Return the dynamic axes of the tensors in an input, in its structure."""
        if isinstance(value, torch.Tensor):
            found = axes.get(name, {}).items()
            return {axis: torch.export.Dim(s) if must_vary else torch.export.Dim.AUTO for axis, s in found} or None
        if isinstance(value, dict):
            return {key: shapes(item, f"{name}.{key}") for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(shapes(item, f"{name}.{i}") for i, item in enumerate(value))
        return None

    return {name: shapes(value, name) for name, value in inputs.items()}


def rename_symbols(program: Any, axes: Axes) -> None:  # noqa: ANN401 - torch's ONNXProgram
    """Give the dimensions that torch.export found to vary (`s41` and the like) the symbols of the axes."""
    names: dict[str, str] = {}
    for value in program.model.graph.inputs:
        for axis, symbol in axes.get(value.name, {}).items():
            own = getattr(value.shape[axis], "value", None)
            if isinstance(own, str):
                names.setdefault(own, symbol)
    program.rename_axes(names)
