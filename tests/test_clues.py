"""`--io module` names the right tensors, or refuses: without recorded values, in changed graphs, and by values."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import numpy as np
import onnx
import pytest

from mxtools.errors import AbsentError
from mxtools.passes.filter import Filter, Io
from mxtools.pipeline.working_model import WorkingModel
from mxtools.traces.sidecar import Sidecar
from mxtools.traces.values import Values
from tests.support.small_graphs import HEAD, tagged
from tests.support.small_traces import trace_of, values_of


def ends(
    text: str, scopes: dict[str, str], trace: Sidecar, scope: str, values: Values | None = None
) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the inputs of the part of a graph, and its outputs, each with the operator that makes it."""
    model = tagged(HEAD + text, scopes)
    Filter(scope=(scope,), io=Io.MODULE, verify=True).apply(WorkingModel(model, sidecar=trace, values=values))
    onnx.checker.check_model(model, full_check=True)
    made = {name: node.op_type for node in model.graph.node for name in node.output}
    return [value.name for value in model.graph.input], [(o.name, made[o.name]) for o in model.graph.output]


def recorded(lines: str, names: str, arrays: dict[str, np.ndarray]) -> tuple[Sidecar, Values]:
    """Return a trace with the fingerprints and the values of its tensors, which `names` has by their numbers."""
    return trace_of(lines, arrays=arrays), values_of(arrays, names)


ORDERS = [False, True]


def lines_of(lines: Iterable[str], is_reversed: bool) -> str:
    """Return lines of a graph in their order, or in the other."""
    return "\n".join(reversed(list(lines)) if is_reversed else lines)


@pytest.mark.parametrize("is_reversed", ORDERS)
def test_results_of_one_shape_are_told_apart_by_what_made_them(is_reversed: bool) -> None:
    """As key and value of a cache: in any order of the nodes, `a` is what was made of the result of `kv.k`."""
    trace = trace_of(
        """
        .    Net x:2 -> y:2
        kv   KV  x:2 -> a:2 b:2
        kv.k K   x:2 -> k:2
        kv.v V   x:2 -> v:2
        run kv.k exp x -> k
        run kv   mul k -> a
        run kv.v exp x -> v
        run kv   mul v -> b
        run .    sub b a -> y
        """
    )
    nodes = ["k = Exp(x)\na = Mul(k, w)", "v = Exp(x)\nb = Mul(v, u)"]
    text = f""" g (float[2] x) => (float[2] y) <float[2] w = {{1, 2}}, float[2] u = {{3, 4}}> {{
        {lines_of(nodes, is_reversed)}
        y = Sub(b, a)
    }}"""
    model = tagged(HEAD + text, {"k": "kv.k", "v": "kv.v", "a": "kv", "b": "kv"})
    Filter(scope=("kv",), io=Io.MODULE, verify=True).apply(WorkingModel(model, sidecar=trace))
    weights = {node.output[0]: node.input[1] for node in model.graph.node if node.op_type == "Mul"}
    assert [(output.name, weights[output.name]) for output in model.graph.output] == [("a", "w"), ("b", "u")]


def rotary(cos: str, sin: str) -> Sidecar:
    """Return the trace of a module that returned two tensors of one shape, made by functions of these names."""
    return trace_of(
        f"""
        .  Net x:2 -> y:2
        r  R   x:2 -> c:2 s:2
        run r {cos} x -> c
        run r {sin} x -> s
        run . mul c s -> y
        """
    )


ROTARY = """ g (float[2] x) => (float[2] y) <float zero = {0}, float one = {1}> {
    NODES
    y = Mul(c, s)
}"""


@pytest.mark.parametrize("is_reversed", ORDERS)
def test_results_of_one_shape_are_told_apart_by_their_operations(is_reversed: bool) -> None:
    text = ROTARY.replace("NODES", lines_of(["c = Cos(x)", "s = Sin(x)"], is_reversed))
    _, outputs = ends(text, {"c": "r", "s": "r"}, rotary("cos", "sin"), "r")
    assert outputs == [("c", "Cos"), ("s", "Sin")]


def test_names_of_operators_decide_only_if_they_decide_everything() -> None:
    """`silu` becomes Sigmoid and Mul, and a product with 1 disappears: the only Mul is not what `mul` made."""
    trace = trace_of(
        """
        .  Net x:2 -> y:2
        r  R   x:2 -> c:2 s:2
        run r silu x -> c
        run r sigmoid x -> t
        run r mul t -> s
        run . mul c s -> y
        """
    )
    text = ROTARY.replace("NODES", "s = Sigmoid(x)\nc = Mul(x, s)")
    with pytest.raises(AbsentError, match="nothing decides which value that is"):
        ends(text, {"c": "r", "s": "r"}, trace, "r")


def test_what_nothing_decides_is_refused_and_values_decide_it() -> None:
    text = ROTARY.replace("NODES", "c = Clip(x, zero)\ns = Clip(x, one)")
    trace = rotary("relu", "relu")
    with pytest.raises(AbsentError, match=r"nothing decides which value that is: make the trace with .*record=True"):
        ends(text, {"c": "r", "s": "r"}, trace, "r")
    x = np.float32([0.5, 3])
    arrays = {"x": x, "c": x, "s": np.float32([1, 3]), "y": np.float32([0.5, 9])}
    lines = ".  Net x:2 -> y:2\nr  R   x:2 -> s:2 c:2"
    model = tagged(HEAD + text, {"c": "r", "s": "r"})
    known = recorded(lines, "x y s c", arrays)
    Filter(scope=("r",), io=Io.MODULE).apply(WorkingModel(model, sidecar=known[0], values=known[1]))
    limits = {node.output[0]: node.input[1] for node in model.graph.node}
    assert [(output.name, limits[output.name]) for output in model.graph.output] == [("s", "one"), ("c", "zero")]


QUANTISED = """ g (float[2, 2] x) => (float[2, 2] y)
    <float s = {0.1}, int8 z = {0}, int8[2, 2] w = {5, 0, 0, 5}> {
    a = Neg(x)
    t = Tanh(a)
    q = QuantizeLinear(t, s, z)
    p = QLinearMatMul(q, s, z, w, s, z, s, z)
    y = DequantizeLinear(p, s, z)
}"""


def test_a_result_that_is_only_there_as_quantised_numbers_is_no_other_value() -> None:
    trace = trace_of(
        """
        .  Net x:2x2 -> y:2x2
        m  M   a:2x2 -> r:2x2
        run . neg x -> a
        run m tanh a -> t
        run m matmul t -> r
        run . relu r -> y
        """
    )
    with pytest.raises(AbsentError, match="returned 'r', which the graph has only as quantised numbers"):
        ends(QUANTISED, {"t": "m", "q": "m", "p": "m"}, trace, "m")


def test_a_value_before_the_end_of_a_module_is_not_its_result() -> None:
    """A tool fused the last sum of `m` with what follows: the result of `m.a`, which leaves it, is another tensor."""
    trace = trace_of(
        """
        .    Net x:2 -> y:2
        m    M   x:2 -> r:2
        m.a  A   x:2 -> a:2
        run m.a exp x -> a
        run m   add x a -> r
        run .   relu r -> y
        """
    )
    text = " g (float[2] x) => (float[2] y) { a = Exp(x) y = Sum(x, a) }"
    with pytest.raises(AbsentError, match="returned 'r', but none of its nodes makes that"):
        ends(text, {"a": "m.a"}, trace, "m")


def test_what_a_module_was_not_given_keeps_its_name() -> None:
    """The node of `bn` does the work of `conv` too: it reads what `conv` was given, of the same shape."""
    trace = trace_of(
        """
        .     Net  x:2 -> y:2
        pre   P    x:2 -> h:2
        conv  Conv h:2 -> g:2
        bn    BN   g:2 -> b:2
        run pre  exp x -> h
        run conv mul h -> g
        run bn   neg g -> b
        run .    abs b -> y
        """
    )
    text = " g (float[2] x) => (float[2] y) { v = Exp(x) b = Neg(v) y = Abs(b) }"
    part = partial(ends, text, {"v": "pre", "b": "bn"}, trace)
    assert part("bn") == (["v"], [("b", "Neg")])
    assert part("pre") == (["x"], [("h", "Exp")])


def test_a_transposed_argument_keeps_its_name() -> None:
    """The graph has the argument only with its dimensions in the other order, which its sizes do not show."""
    x = np.float32([[1, -2], [3, 4]])
    a = np.maximum(x, 0)
    arrays = {"x": x, "y": np.exp(a), "a": a, "b": np.exp(a)}
    known = recorded(".  Net x:2x2 -> b:2x2\nm  M   a:2x2 -> b:2x2", "x b a", arrays)
    text = " g (float[2, 2] x) => (float[2, 2] y) { t = Transpose(x) h = Relu(t) e = Exp(h) y = Transpose(e) }"
    assert ends(text, {"e": "m", "y": "m"}, known[0], "m", known[1]) == (["h"], [("b", "Transpose")])


NOISY = """ g (float[2, 2] x) => (float[2, 2] y) <float s = {0.1}, int8 z = {0}> {
    q = QuantizeLinear(x, s, z)
    d = DequantizeLinear(q, s, z)
    r = Neg(d)
    y = Abs(r)
}"""


def test_values_of_a_quantised_graph_are_found_near_the_recorded_ones() -> None:
    """No value equals the recorded one: what the other rules find must be near it."""
    x = np.float32([[1.04, -2.03], [3.02, 4.01]])
    lines = """
        .  Net x:2x2 -> y:2x2
        m  M   x:2x2 -> r:2x2
        run m neg x -> r
        run . abs r -> y
        """
    known = recorded(lines, "x y r", {"x": x, "y": np.abs(x), "r": -x})
    assert ends(NOISY, {"r": "m"}, known[0], "m", known[1]) == (["x"], [("r", "Neg")])
    other = recorded(lines, "x y r", {"x": x, "y": np.abs(x), "r": np.maximum(-x, 0)})
    with pytest.raises(AbsentError, match="returned 'r', but in a run none of its values is near that"):
        ends(NOISY, {"r": "m"}, other[0], "m", other[1])
