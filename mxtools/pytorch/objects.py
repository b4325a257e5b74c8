"""Tracing and exporting modules that are objects in memory, for the public API."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mxtools.errors import UsageError
from mxtools.files.temporary import Scratch
from mxtools.pytorch.exporting.axes import usual_axes
from mxtools.pytorch.exporting.exporters import Axes, Options, check_opset
from mxtools.pytorch.fingerprint import array_of
from mxtools.pytorch.sources import Sources
from mxtools.pytorch.subject import Subject, by_name
from mxtools.pytorch.tracing import trace
from mxtools.runtime.quiet import TURN
from mxtools.traces.values import Values

if TYPE_CHECKING:
    from mxtools.traces.sidecar import Sidecar


def subject_of(module: nn.Module, inputs: Any) -> Subject:  # noqa: ANN401 - as forward takes them
    """Return a module with its inputs by the names of `forward`; the subject has the name of its class."""
    if not isinstance(module, nn.Module):
        raise UsageError(f"a {type(module).__name__} is no torch.nn.Module", "call it in the `forward` of a module")
    with TURN:
        return Subject(module, by_name(module, inputs), f"{type(module).__module__}:{type(module).__qualname__}")


def trace_module(module: nn.Module, inputs: Any, record: bool) -> tuple[Sidecar, Values | None]:  # noqa: ANN401
    """Return the trace of a module and, with `record`, the values of its tensors."""
    arrays: dict[str, torch.Tensor] | None = {} if record else None
    with TURN:
        sidecar = trace(subject_of(module, inputs), arrays)
    if arrays is None:
        return sidecar, None
    return sidecar, Values(arrays.keys(), lambda name: array_of(arrays[name]))


def export_module(
    module: nn.Module,
    inputs: Any,  # noqa: ANN401
    exporter: str,
    dynamic: bool | Axes,
    opset: int | None,
    keep_modules: bool,
) -> tuple[Path, Scratch]:
    """Export a module; return the ONNX file, and its folder, which must live as long as the file is used."""
    check_opset(exporter, opset)
    with TURN:
        subject = subject_of(module, inputs)
        axes = dynamic if isinstance(dynamic, Mapping) else usual_axes(subject) if dynamic else {}
        options = Options(opset, axes, keep_modules)
        scratch = Scratch()
        return Sources(lambda: subject, scratch.folder, options).export(exporter)[-1].path, scratch
