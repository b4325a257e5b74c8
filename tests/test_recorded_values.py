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


AUTO = str(table.get("auto").pipeline)


def tagged(text: str, trace: str, weights: Arrays, arrays: Arrays, passes: str = AUTO) -> ModelProto:
    """Return a graph whose weights are not in its text, as passes tag it by a trace with these tensors recorded."""
    model = parser.parse_model(f"{HEAD} {text}")
    for node in model.graph.node:
        node.input[:] = ["" if name == "none" else name.replace("__", ".") for name in node.input]
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    sidecar = trace_of(trace, {name: list(array.shape) for name, array in weights.items()}, arrays)
    names = {t.id: t.name for call in sidecar.calls for t in (*call.inputs, *call.outputs)}
    values = values_of(arrays, " ".join(names[number] for number in sorted(names)))
    Pipeline.parse(passes).apply(WorkingModel(model, sidecar=sidecar, values=values))
    return model


def scopes(model: ModelProto) -> dict[str, str]:
    return {node.output[0]: keys.props(node).get(keys.SCOPE, "") for node in model.graph.node}


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


def test_values_tell_the_calls_of_a_module_apart_whatever_the_order() -> None:
    """The optimiser put the second call before the first; each call has a product and a sum."""
    a, b, weight, bias = random(2, 4), 2 * random(2, 4), random(4, 4), random(4)
    first, second = a @ weight + bias, b @ weight + bias
    model = tagged(
        """g (float[2, 4] a, float[2, 4] b) => (float[2, 4] y) {
            q = MatMul(b, enc__weight) s = Add(q, enc__bias) t = Neg(s)
            p = MatMul(a, enc__weight) r = Add(p, enc__bias) y = Sub(r, t)
        }""",
        """
        .      Net  a:2x4 b:2x4 -> y:2x4
        enc    Enc  a:2x4 -> first:2x4
        enc@1  Enc  b:2x4 -> second:2x4
        """,
        {"enc.weight": weight, "enc.bias": bias},
        {"a": a, "b": b, "first": first, "second": second, "y": first + second},
    )
    assert scopes(model) == {"q": "enc@1", "s": "enc@1", "t": ".", "p": "enc", "r": "enc", "y": "."}


def test_a_value_that_is_equal_by_luck_takes_no_nodes_from_modules_that_are_known() -> None:
    """Rounded values equal none that was recorded, but for the last: the search for `act` must not go through `one`."""
    x, weight = random(2, 4), random(4, 4)
    model = tagged(
        "g (float[2, 4] x) => (float[2, 4] y) { n = Neg(x) p = MatMul(n, one__weight) q = Abs(p) y = Exp(q) }",
        """
        .     Net     x:2x4 -> y:2x4
        pre   Pre     x:2x4 -> n:2x4
        one   Linear  n:2x4 -> p:2x4
        act   Act     p:2x4 -> y:2x4
        """,
        {"one.weight": weight},
        {"x": x, "n": 1 - x, "p": 1 - x @ weight, "y": np.exp(np.abs(x @ weight))},
        "project-parameters,project-values",
    )
    assert scopes(model) == {"n": ".", "p": "one", "q": "act", "y": "act"}


def test_equal_values_tell_no_calls_apart() -> None:
    """Both calls were given the same numbers, so the order has to do."""
    a, weight = random(2, 4), random(4, 4)
    model = tagged(
        """g (float[2, 4] a, float[2, 4] b) => (float[2, 4] y) {
            p = MatMul(a, enc__weight) q = MatMul(b, enc__weight) y = Sub(p, q)
        }""",
        """
        .      Net  a:2x4 b:2x4 -> y:2x4
        enc    Enc  a:2x4 -> first:2x4
        enc@1  Enc  b:2x4 -> second:2x4
        """,
        {"enc.weight": weight},
        {"a": a, "b": a, "first": a @ weight, "second": a @ weight, "y": 0 * a},
    )
    assert scopes(model) == {"p": "enc", "q": "enc@1", "y": "."}
