"""Check that a part computes what the whole model computes at the same tensors, in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mxtools.cut.body_values import body_values
from mxtools.cut.opening import Opened
from mxtools.graph.index import graph_inputs
from mxtools.pipeline.working_model import WorkingModel
from mxtools.runtime.output_check import output_difference, require_close
from mxtools.runtime.session_values import Value
from mxtools.runtime.sessions import inner_values, run_model
from mxtools.runtime.tolerances import tolerance_of_parts


@dataclass(frozen=True)
class PartCheck:
    """How far each output of a part is from the whole model's; the inputs of the part, and the whole's values."""

    differences: list[dict[str, Any]]
    given: dict[str, Value]
    expected: dict[str, Value]

    def renamed(self, names: Mapping[str, str]) -> PartCheck:
        """Return the same for a part whose tensors have other names; `names` has these by the old ones."""
        given, expected = ({names.get(n, n): v for n, v in side.items()} for side in (self.given, self.expected))
        return PartCheck(self.differences, given, expected)


def check_part(whole: WorkingModel, part: WorkingModel, opened: Opened | None = None) -> PartCheck:
    """Run a model, feed a part of it with tensors of that run, and compare the part's outputs with that run.

    `opened` is the body that the part was cut out of, if it was; then one iteration is compared. Raises CheckError if a
    difference is above `tolerance_of_parts` or the body does not run, InputError if ONNX Runtime cannot run one.
    """
    part_inputs = graph_inputs(part.proto)
    types = {value.name: value.type for value in (*part_inputs, *part.proto.graph.output)}
    if opened is not None and opened.place:
        depth = len(opened.place)
        wanted = {name: opened.outer.get(name, (depth, name)) for name in types}
        values = body_values(opened.whole, opened.place, wanted, types)
    else:
        whole = opened.whole if opened else whole
        inputs = whole.inputs()
        names = dict.fromkeys(types.keys() - inputs.keys(), 0)
        values = dict(inner_values(whole.proto, whole.weights, inputs, names)) | inputs
    given = {v.name: values[v.name] for v in part_inputs}
    outputs = run_model(part.proto, part.weights, given)
    differences = [output_difference(name, array, values[name]) for name, array in outputs.items()]
    require_close(differences, tolerance_of_parts(whole.proto))
    return PartCheck([asdict(d) for d in differences], given, {name: values[name] for name in outputs})
