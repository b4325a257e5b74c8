"""The cases that onnx generates for its operators, one in so many: as functions they compute the same, to the bit."""

from __future__ import annotations

import warnings
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper
from onnx.backend.test.loader import load_model_tests

from mxtools.errors import AbsentError
from mxtools.passes.fold import Fold
from mxtools.passes.unfold import Unfold
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes import keys
from tests.support import running

STRIDE = 17
"""Every case takes milliseconds, and there are two thousand; `benchmarks/onnx_models.py` has them all."""


def cases() -> list[Any]:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return [case for case in load_model_tests(kind="node") if case.model.graph.node][::STRIDE]


def tagged(model: ModelProto) -> ModelProto:
    """Return a model whose first half is module `one`, and the rest module `two`."""
    copy = ModelProto.FromString(model.SerializeToString())
    copy.ir_version = max(copy.ir_version, keys.FIRST_IR_WITH_NODE_METADATA)
    for place, node in enumerate(copy.graph.node):
        scope = "one" if 2 * place < len(copy.graph.node) else "two"
        for key, value in ((keys.SCOPE, scope), (keys.TAG, f"/Net/Block.{scope}"), (keys.EVIDENCE, "name")):
            keys.set_prop(node, key, value)
    return copy


def outputs(model: ModelProto, feeds: dict[str, Any]) -> dict[str, str] | None:
    """Return what a model computes, as text; None where ONNX Runtime cannot run it, or not twice to the same end."""
    try:
        one, two = (running.outputs(model, feeds) for _ in range(2))
    except Exception:  # whatever ONNX Runtime refuses is compared with nothing
        return None
    return {name: text(value) for name, value in one.items()} if repr(one) == repr(two) else None


def text(value: Any) -> str:
    is_plain = isinstance(value, np.ndarray) and not value.dtype.hasobject
    return value.tobytes().hex() if is_plain else repr(value)


def test_generated_cases() -> None:
    compared = 0
    for case in cases():
        model = tagged(case.model)
        folded = WorkingModel(ModelProto.FromString(model.SerializeToString()))
        with suppress(AbsentError):  # what can be no function is left
            Fold(depth=1).apply(folded)
        given = case.data_sets[0][0] if case.data_sets else []
        feeds = {info.name: value for info, value in zip(model.graph.input, given, strict=False)}
        expected = outputs(case.model, feeds)
        if expected is not None:
            found = running.outputs(folded.proto, feeds)
            assert {name: text(value) for name, value in found.items()} == expected, case.name
            compared += 1
        ours = tuple(function.name for function in folded.proto.functions if function.domain == "mxtools")
        if ours:
            Unfold(function=ours).apply(folded)
        assert folded.proto == model, case.name
    assert compared > 70


@pytest.mark.parametrize("axes", [None, [0, 2]])
def test_an_operator_that_onnx_runtime_refuses_in_functions(axes: list[int] | None) -> None:
    node = helper.make_node("MeanVarianceNormalization", ["x"], ["y"], **({"axes": axes} if axes else {}))
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2, 3, 3]) for name in "xy"]
    graph = helper.make_graph([node], "g", infos[:1], infos[1:])
    model = tagged(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10))
    folded = WorkingModel(model)
    if axes is None:
        with pytest.raises(AbsentError, match="MeanVarianceNormalization without axes"):
            Fold(depth=1).apply(folded)
    else:
        Fold(depth=1).apply(folded)
        running.session(folded.proto)
