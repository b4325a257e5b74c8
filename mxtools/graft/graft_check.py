"""Check in ONNX Runtime that a model with a part computes the same as without it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from mxtools.pipeline.working_model import WorkingModel
from mxtools.runtime.output_check import output_difference, require_close
from mxtools.runtime.sessions import inner_values


def check_graft(
    before: WorkingModel, after: WorkingModel, names: Iterable[str], tolerance: float
) -> list[dict[str, Any]]:
    """Run a model without and with a part; return how far the model's outputs, and other tensors of it, differ.

    Raises CheckError if a difference is above the tolerance, InputError if ONNX Runtime cannot run one of them.
    """
    inputs = before.inputs()
    wanted = dict.fromkeys([*names, *(value.name for value in before.proto.graph.output)], 0)
    expected, found = (dict(inner_values(m.proto, m.weights, inputs, wanted)) for m in (before, after))
    differences = [output_difference(name, found[name], expected[name]) for name in wanted if name in expected]
    require_close(
        differences,
        tolerance,
        "the part does not compute the same as the nodes that it replaces: check that it was made from this model",
    )
    return [asdict(d) for d in differences]
