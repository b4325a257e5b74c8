"""Comparing what a part computes with what the whole model computes at the same tensors, in ONNX Runtime."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from mxtools.graph.index import graph_inputs
from mxtools.pipeline.working_model import WorkingModel
from mxtools.runtime.output_check import TOLERANCE, difference, refuse
from mxtools.runtime.sessions import computed, inner_values


def check_part(whole: WorkingModel, part: WorkingModel) -> list[dict[str, Any]]:
    """Run a model and a part of it, feed the part from the whole, and return the differences of its outputs.

    Raises CheckError where one is above TOLERANCE, InputError where ONNX Runtime cannot run one of them.
    """
    given = whole.inputs()
    asked = graph_inputs(part.proto)
    names = {value.name for value in (*asked, *part.proto.graph.output)}
    values = dict(inner_values(whole.proto, whole.weights, given, dict.fromkeys(names - given.keys(), 0))) | given
    found = computed(part.proto, part.weights, {v.name: values[v.name] for v in asked})
    differences = [difference(name, array, values[name]) for name, array in found.items()]
    refuse(differences, TOLERANCE)
    return [asdict(d) for d in differences]
