"""Check that the parts of a split, run one after the other, compute what the whole model computes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mxtools.pipeline.working_model import WorkingModel
from mxtools.runtime.output_check import TOLERANCE, output_difference, require_close
from mxtools.runtime.sessions import run_model


def check_split(whole: WorkingModel, files: Iterable[Path]) -> None:
    """Run the parts of a model, given by their files in the order of the manifest, and compare their outputs with its.

    Raises CheckError where one differs by more than TOLERANCE, InputError where ONNX Runtime cannot run one of them.
    """
    values = whole.inputs()
    expected = run_model(whole.proto, whole.weights, values)
    for file in files:
        part = WorkingModel.read(file)
        values |= run_model(part.proto, part.weights, values)
    require_close([output_difference(name, values[name], array) for name, array in expected.items()], TOLERANCE)
