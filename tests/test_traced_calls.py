"""What follows from the calls of a trace, and when it is computed."""

from __future__ import annotations

import gc

import onnx
import pytest

from mxtools.evidence import altered_weights
from mxtools.evidence.node_names import annotate_by_names
from mxtools.pipeline.working_model import WorkingModel
from mxtools.traces.sidecar import Sidecar
from mxtools.traces.traced_calls import once_per_trace, operations_making
from tests.support.small_traces import trace_of

TEXT = """
. Net x:2 -> y:2
run . abs x -> y
"""


def test_what_follows_from_a_trace_is_computed_once_as_long_as_the_trace_lives() -> None:
    seen: list[int] = []

    @once_per_trace
    def calls(sidecar: Sidecar) -> int:
        seen.append(len(sidecar.calls))
        return len(sidecar.calls)

    one, other = trace_of(TEXT), trace_of(TEXT)
    assert [calls(one), calls(one), calls(other)] == [1, 1, 1]
    assert len(seen) == 2
    assert operations_making(one) is operations_making(one)
    del one, other
    gc.collect()
    for number in range(20):  # new traces may have the addresses of the old ones
        lines = "".join(f"\nm{call} M x:2 -> z{call}:2" for call in range(number))
        assert calls(trace_of(TEXT.replace("\nrun", lines + "\nrun"))) == number + 1


def test_parts_of_a_trace_have_their_own() -> None:
    whole = trace_of(TEXT)
    assert len(operations_making(whole)) == 1
    part = whole.model_copy(update={"operations": ()})
    assert len(operations_making(part)) == 0


def test_weights_of_a_node_whose_name_says_what_its_result_is_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    text = """<ir_version: 9, opset_import: ["" : 17]> g (float[2, 2] x) => (float[2, 2] y)
    <float[2, 2] w = {1, 2, 3, 4}> { ["/fc/MatMul"] y = MatMul(x, w) }"""
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer[0].name = proto.graph.node[0].input[1] = "fc.weight"
    trace = trace_of(". Net x:2x2 -> y:2x2\nfc Linear x:2x2 -> y:2x2", {"fc.weight": [2, 2]})
    monkeypatch.setattr(altered_weights, "is_altered", lambda model, value: pytest.fail("read a weight"))
    model = WorkingModel(proto, sidecar=trace)
    annotate_by_names(model)
    assert [model.annotations.hierarchy.scopes[call or 0] for call in model.annotations.call] == ["fc"]
