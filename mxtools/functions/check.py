"""Check that a model computes with functions what it computes without, in ONNX Runtime."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from mxtools.pipeline.working_model import WorkingModel
from mxtools.runtime.output_check import output_difference, require_close
from mxtools.runtime.sessions import inner_values
from mxtools.runtime.tolerances import tolerance_of_parts


def same_outputs(before: WorkingModel, after: WorkingModel) -> list[dict[str, Any]]:
    """Run a model as it was and as it is; return how far its outputs differ.

    Raises CheckError where one differs, InputError where ONNX Runtime cannot run one of the two.
    """
    inputs = before.inputs()
    wanted = dict.fromkeys((value.name for value in before.proto.graph.output), 0)
    expected, found = (dict(inner_values(m.proto, m.weights, inputs, wanted)) for m in (before, after))
    differences = [output_difference(name, found[name], expected[name]) for name in wanted if name in expected]
    require_close(differences, tolerance_of_parts(before.proto))
    return [asdict(d) for d in differences]
