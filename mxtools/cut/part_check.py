"""Check that a part computes what the whole model computes at the same tensors, in ONNX Runtime."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from mxtools.graph.index import graph_inputs
from mxtools.pipeline.working_model import WorkingModel
from mxtools.runtime.output_check import TOLERANCE, output_difference, require_close
from mxtools.runtime.sessions import inner_values, run_model


def check_part(whole: WorkingModel, part: WorkingModel) -> list[dict[str, Any]]:
    """Run a model, feed a part of it with tensors of that run, and return how far the part's outputs differ from it.

    Raises CheckError where a difference is above TOLERANCE, InputError where ONNX Runtime cannot run one of the two.
    """
    inputs = whole.inputs()
    part_inputs = graph_inputs(part.proto)
    names = {value.name for value in (*part_inputs, *part.proto.graph.output)}
    values = dict(inner_values(whole.proto, whole.weights, inputs, dict.fromkeys(names - inputs.keys(), 0))) | inputs
    outputs = run_model(part.proto, part.weights, {v.name: values[v.name] for v in part_inputs})
    differences = [output_difference(name, array, values[name]) for name, array in outputs.items()]
    require_close(differences, TOLERANCE)
    return [asdict(d) for d in differences]
