"""Files that were optimised before they were tagged: what recorded values say, though names and order mislead."""

from __future__ import annotations

import json

import numpy as np
from onnx import ModelProto, numpy_helper, parser

from mxtools.pipeline.pipeline import Pipeline
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes import keys
from mxtools.scopes.annotations import read_absent
from mxtools.strategies import table
from tests.support.small_traces import trace_of, values_of

HEAD = '<ir_version: 10, opset_import: ["" : 20, "com.microsoft" : 1]>'
Arrays = dict[str, np.ndarray]


def random(*dims: int) -> np.ndarray:
    return np.random.default_rng(len(dims) + sum(dims)).standard_normal(dims).astype(np.float32)


def tagged(text: str, trace: str, weights: Arrays, arrays: Arrays) -> ModelProto:
    """Return a graph whose weights are not in its text, as `mx tag` tags it by a trace with these tensors recorded."""
    model = parser.parse_model(f"{HEAD} {text}")
    for node in model.graph.node:
        node.input[:] = ["" if name == "none" else name.replace("__", ".") for name in node.input]
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    sidecar = trace_of(trace, {name: list(array.shape) for name, array in weights.items()}, arrays)
    names = {t.id: t.name for call in sidecar.calls for t in (*call.inputs, *call.outputs)}
    values = values_of(arrays, " ".join(names[number] for number in sorted(names)))
    Pipeline.parse(str(table.get("auto").pipeline)).apply(WorkingModel(model, sidecar=sidecar, values=values))
    return model


def scopes(model: ModelProto) -> dict[str, str]:
    return {node.output[0]: keys.props(node)[keys.SCOPE] for node in model.graph.node}


def merged(model: ModelProto) -> dict[str, list[str]]:
    return {n.output[0]: json.loads(text) for n in model.graph.node if (text := keys.props(n).get(keys.MERGED))}


def test_a_fused_node_goes_to_the_call_that_returned_what_it_makes() -> None:
    x, weight, bias, last = random(2, 4), random(4, 4), random(4), random(4, 3)
    a = x @ weight
    b = a + bias
    c = np.maximum(b, 0)
    model = tagged(
        "g (float[2, 4] x) => (float[2, 3] y) { r = com.microsoft.FusedGemm <activation = "
        '"Relu"> (x, one__weight, shift__bias) y = MatMul(r, two__weight) }',
        """
        .      Net     x:2x4 -> d:2x3
        one    Linear  x:2x4 -> a:2x4
        shift  Shift   a:2x4 -> b:2x4
        act    ReLU    b:2x4 -> c:2x4
        two    Linear  c:2x4 -> d:2x3
        """,
        {"one.weight": weight, "shift.bias": bias, "two.weight": last},
        {"x": x, "a": a, "b": b, "c": c, "d": c @ last},
    )
    assert scopes(model) == {"r": "act", "y": "two"}
    assert merged(model) == {"r": ["one", "shift", "act"]}
    assert read_absent(model) == {"one": "merged: act", "shift": "merged: act"}


def test_a_node_that_also_does_the_end_of_the_call_before_it_is_merged() -> None:
    """A node of `norm` adds the bias of `one`, which keeps its product."""
    x, weight, bias, gamma = random(2, 4), random(4, 4), random(4), random(4)
    a = x @ weight + bias
    s = a + x
    n = (s - s.mean(-1, keepdims=True)) / np.sqrt(s.var(-1, keepdims=True) + 1e-5) * gamma
    model = tagged(
        "g (float[2, 4] x) => (float[2, 4] z) { p = MatMul(x, one__weight) n = com.microsoft.SkipLayerNormalization "
        "<epsilon = 1e-5> (p, x, norm__weight, none, one__bias) z = Abs(n) }",
        """
        .     Net        x:2x4 -> z:2x4
        one   Linear     x:2x4 -> a:2x4
        norm  LayerNorm  s:2x4 -> n:2x4
        run   .          add a x -> s
        """,
        {"one.weight": weight, "one.bias": bias, "norm.weight": gamma},
        {"x": x, "a": a, "s": s, "n": n, "z": np.abs(n)},
    )
    assert (scopes(model)["p"], scopes(model)["n"]) == ("one", "norm")
    assert merged(model) == {"n": ["one", "norm"]}
