"""Renaming values keeps who reads what."""

from __future__ import annotations

import onnx
import pytest
from onnx import parser

from mxtools.graph.rename import fresh, rename_values

TEXT = """<ir_version: 10, opset_import: ["" : 21]> g (bool c, float[2] x) => (float[2] y) <float[2] w = {1, 2}> {
    a = Add(x, w)
    b = If (c) <
        then_branch = t () => (float[2] p) { h = Neg(a) p = Exp(h) },
        else_branch = e () => (float[2] q) { q = Identity(a) }
    >
    y = Relu(b)
}"""


def renamed(names: dict[str, str]) -> tuple[str, dict[str, str]]:
    model = parser.parse_model(TEXT)
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("a", 1, [2]))
    note = model.graph.quantization_annotation.add(tensor_name="a")
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="w")
    done = rename_values(model.graph, names)
    onnx.checker.check_model(model, full_check=True)
    assert model.graph.value_info[0].name == note.tensor_name == done.get("a", "a")
    assert note.quant_parameter_tensor_names[0].value == done.get("w", "w")
    return " ".join(onnx.printer.to_text(model.graph).split()), done


@pytest.mark.parametrize(
    ("names", "done", "shown"),
    [
        ({}, {}, ["a = Add (x, w)"]),
        ({"nothing": "new"}, {}, ["a = Add (x, w)"]),
        ({"a": "a"}, {}, ["a = Add (x, w)"]),
        ({"a": "n"}, {"a": "n"}, ["n = Add (x, w)", "h = Neg (n)", "q = Identity (n)"]),
        ({"x": "i", "w": "k", "y": "o"}, {"x": "i", "w": "k", "y": "o"}, ["a = Add (i, k)", "o = Relu (b)"]),
        ({"a": "x", "x": "a"}, {"a": "x", "x": "a"}, ["x = Add (a, w)", "h = Neg (x)"]),
        ({"a": "h"}, {"a": "h", "h": "h_1"}, ["h = Add (x, w)", "h_1 = Neg (h)", "p = Exp (h_1)"]),
        ({"x": "a"}, {"x": "a", "a": "a_1"}, ["a_1 = Add (a, w)", "h = Neg (a_1)"]),
    ],
    ids=["none", "unknown", "itself", "inner", "boundary", "swapped", "not captured by a body", "in the way"],
)
def test_rename_values(names: dict[str, str], done: dict[str, str], shown: list[str]) -> None:
    text, what = renamed(names)
    assert what == done
    for line in shown:
        assert line in text


def test_two_values_cannot_have_one_name() -> None:
    with pytest.raises(ValueError, match="one name"):
        renamed({"x": "n", "a": "n"})


def test_fresh() -> None:
    assert fresh("a", {"b"}) == "a"
    assert fresh("a", {"a", "a_1"}) == "a_2"
