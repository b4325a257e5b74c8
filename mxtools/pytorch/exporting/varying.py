"""Export with the axes that usually vary, and without them if the exporter cannot do that."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from mxtools.errors import InputError
from mxtools.pytorch.exporting.axes import usual_axes
from mxtools.pytorch.exporting.check import agreement
from mxtools.pytorch.exporting.export import export
from mxtools.pytorch.exporting.exporters import ExportAttempt, Options
from mxtools.pytorch.subject import Subject


def export_varying(subject: Subject, path: Path, exporter: str, options: Options) -> ExportAttempt:
    """Let an exporter write raw ONNX to a path in a folder of its own, with axes of batch and sequence dynamic.

    If this fails, or the file does not return what PyTorch returns for inputs of these and of other sizes, all axes are
    static, and `static` of the result says why. Without `options.varying`, it exports as the options say.
    """
    if not options.varying or options.dynamic:
        return export(subject, path, exporter, options)
    attempt = export(subject, path, exporter, replace(options, dynamic=usual_axes(subject, waves=True)))
    problem = attempt.error or _difference(subject, attempt)
    if not problem:
        return attempt
    shutil.rmtree(path.parent)
    path.parent.mkdir()
    return replace(export(subject, path, exporter, replace(options, varying=False)), static=problem)


def _difference(subject: Subject, attempt: ExportAttempt) -> str:
    """Return how an export differs from PyTorch, or why it does not run; empty if it does not differ."""
    try:
        return agreement(subject, attempt.read()).wrong
    except InputError as error:
        return str(error)
