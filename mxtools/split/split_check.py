"""Check that the parts of a split, run one after the other, compute what the whole model computes."""

from __future__ import annotations

from pathlib import Path

from mxtools.pipeline.working_model import WorkingModel
from mxtools.runtime.output_check import TOLERANCE, output_difference, require_close
from mxtools.runtime.sessions import run_model
from mxtools.split.manifest import Manifest


def check_split(whole: WorkingModel, manifest: Manifest, folder: Path) -> None:
    """Run the parts of a model in the order of their manifest and compare the outputs with the model's.

    Raises CheckError where one differs by more than TOLERANCE, InputError where ONNX Runtime cannot run one of them.
    """
    values = whole.inputs()
    expected = run_model(whole.proto, whole.weights, values)
    for entry in manifest.parts:
        part = WorkingModel.read(folder / entry.file)
        values |= run_model(part.proto, part.weights, values)
    require_close([output_difference(name, values[name], array) for name, array in expected.items()], TOLERANCE)
