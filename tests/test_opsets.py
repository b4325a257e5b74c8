"""Operator sets and functions of a part and of the model that it is put into."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, parser

from mxtools.errors import InputError
from mxtools.passes.graft import Graft
from mxtools.pipeline.working_model import WorkingModel
from tests.support.grafts import put, versioned

SOFTMAX = "(float[2, 3, 4] a) => (float[2, 3, 4] b) { b = Softmax(a) }"


def test_other_versions_are_harmless_where_operators_are_the_same(tmp_path: Path) -> None:
    model = versioned(13, "g (float[2, 3, 4] x) => (float[2, 3, 4] y) { a = Abs(x) b = Exp(a) y = Abs(b) }")
    put(tmp_path, model, versioned(17, f"p {SOFTMAX}", ir=9))
    assert [n.op_type for n in model.graph.node] == ["Abs", "Softmax", "Abs"]
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 13)]
    assert model.ir_version == 9


def test_other_versions_are_converted(tmp_path: Path) -> None:
    model = versioned(13, "g (float[2, 3, 4] x) => (float[2, 3, 4] y) { a = Abs(x) b = Exp(a) y = Abs(b) }")
    part = versioned(11, f"p {SOFTMAX}")
    feeds = {"a": np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)}
    expected = onnxruntime.InferenceSession(part.SerializeToString()).run(None, feeds)[0]
    put(tmp_path, model, part)
    del model.graph.node[0]
    model.graph.input[0].name = "a"
    assert np.allclose(onnxruntime.InferenceSession(model.SerializeToString()).run(None, feeds)[0], expected, 1e-6)


def test_versions_that_cannot_be_converted(tmp_path: Path) -> None:
    model = versioned(13, "g (float[2] x) => (float[2] y) { a = Abs(x) b = Exp(a) y = Abs(b) }")
    with pytest.raises(InputError, match="Gelu cannot be converted: write the part with operator set 13"):
        put(tmp_path, model, versioned(20, "p (float[2] a) => (float[2] b) { b = Gelu(a) }"))
    domain = ', "own" : '
    model = versioned(13, "g (float[2] x) => (float[2] y) { a = Abs(x) b = own.Op(a) y = Abs(b) }", domain + "1")
    with pytest.raises(InputError, match="set own 2, the model 1"):
        put(tmp_path, model, versioned(13, "p (float[2] a) => (float[2] b) { b = own.Other(a) }", domain + "2"))
    part = versioned(13, "p (float[2, 3] a) => (float[2, 3] b) { b = own.f(a) }", domain + "1")
    text = (
        '<ir_version: 8, opset_import: ["" : 11]> g () => () { } <domain: "own", opset_import: ["" : 11]> f (p) => (q) '
    )
    part.functions.extend(parser.parse_model(text + "{ q = Softmax(p) }").functions)
    onnx.save(part, tmp_path / "part.onnx")
    model = versioned(13, "g (float[2, 3] x) => (float[2, 3] y) { a = Abs(x) b = Exp(a) y = Abs(b) }")
    with pytest.raises(InputError, match="Softmax cannot be converted"):
        Graft(str(tmp_path / "part.onnx")).apply(WorkingModel(model))


def test_new_domains_are_imported_and_only_those_that_are_used(tmp_path: Path) -> None:
    model = versioned(21, "g (float[2] x) => (float[2] y) { a = Abs(x) b = Exp(a) y = Abs(b) }")
    domains = ', "com.microsoft" : 1, "unused" : 3'
    put(tmp_path, model, versioned(21, "p (float[2] a) => (float[2] b) { b = com.microsoft.Gelu(a) }", domains))
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 21), ("com.microsoft", 1)]


FUNCTIONS = """<ir_version: 10, opset_import: ["" : 21, "own" : 1]> {main}
<domain: "own", opset_import: ["" : 21, "own" : 1]> outer (p) => (q) { q = own.inner(p) }
<domain: "own", opset_import: ["" : 21]> inner (p) => (q) { q = OP(p) }
<domain: "own", opset_import: ["" : 21]> other (p) => (q) { q = Abs(p) }"""
CALLS = "g (float[2] x) => (float[2] y) { a = own.outer(x) b = own.outer(a) y = own.other(b) }"


def calling(main: str, inner: str = "Neg") -> ModelProto:
    return parser.parse_model(FUNCTIONS.replace("{main}", main).replace("OP", inner))


def called_with(model: ModelProto) -> Any:
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": np.float32([1, -2])})[0]


def test_equal_functions_are_one(tmp_path: Path) -> None:
    model = calling(CALLS)
    put(tmp_path, model, calling("p (float[2] a) => (float[2] b) { n = Neg(a) b = own.outer(n) }"))
    assert [f.name for f in model.functions] == ["outer", "inner", "other"]
    assert np.array_equal(called_with(model), [1, 2])


def test_other_functions_of_one_name_are_told_apart(tmp_path: Path) -> None:
    model = calling(CALLS)
    put(tmp_path, model, calling("p (float[2] a) => (float[2] b) { b = own.outer(a) }", "Exp"))
    assert [f.name for f in model.functions] == ["outer", "inner", "other", "outer_1", "inner_1"]
    assert np.allclose(called_with(model), np.exp([-1, 2]))


def test_functions_that_nothing_calls_any_more_are_dropped(tmp_path: Path) -> None:
    model = calling(CALLS)
    put(tmp_path, model, "p (float[2] b) => (float[2] y) { y = Sin(b) }")
    assert [f.name for f in model.functions] == ["outer", "inner"]
