"""Where modules end if a tool fuses what they do: by weights, names and quantised numbers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tests.support import golden_text as golden
from tests.support.carried_tags import LINEARS, B, V, W, carried, linear, quantised, with_weights

CONV1D = """
g (float[2, 4, 8] x) => (float[2, 4, 8] y) {
    a = Neg (x)                     #@ norm
    v = Reshape (a, flat)           #@ one
    g = Gemm (v, one__w, one__b)    #@ one
    o = Reshape (g, deep)           #@ one
    s = Gelu (o)                    #@ act
    y = MatMul (s, two__w)          #@ two
}"""
SHAPES = {"flat": np.array([8, 8]), "deep": np.array([2, 4, 8])}


def conv1d() -> onnx.ModelProto:
    """Return GPT-2's Conv1D, a Gemm between two Reshapes, with its weights."""
    return with_weights(golden.read(CONV1D), one__w=W, one__b=B, two__w=V, **SHAPES)


FUSED = {
    "a Gemm in two": """
g (float[2, 4, 8] x) => (float[2, 4, 8] y) {
    v1 = Neg (x)                    #@ norm previous
    v2 = MatMul (v1, one__w)        #@ one parameter
    v3 = Add (v2, one__b)           #@ one previous
    v4 = Gelu (v3)                  #@ act previous
    y = MatMul (v4, two__w)         #@ two previous
}""",
    "a Gemm in two, the second with what comes next": """
g (float[2, 4, 8] x) => (float[2, 4, 8] y) {
    v1 = Neg (x)                    #@ norm previous
    v2 = MatMul (v1, one__w)        #@ one parameter
    v3 = com.microsoft.BiasGelu (v2, one__b)    #@ act previous one act
    y = MatMul (v3, two__w)         #@ two previous
}""",
}


@pytest.mark.parametrize("text", FUSED.values(), ids=FUSED.keys())
def test_a_node_with_some_of_the_weights_of_another_neither_makes_nor_reads_the_same(text: str) -> None:
    after = with_weights(golden.untagged(text), one__w=W, one__b=B, two__w=V)
    assert carried(conv1d(), after) == golden.tags(text)


def test_a_node_does_what_lies_between_its_weights_and_the_next_that_are_known() -> None:
    """Nothing has its name, and the FusedGemm is all that uses the weights of `one`."""
    text = """
g (float[2, 8] x) => (float[2, 8] out) {
    v1 = com.microsoft.FusedGemm <activation = "Relu"> (x, c1, c2)  #@ act previous one act
    v2 = MatMul (v1, c3)    #@ two parameter
    out = Add (v2, c4)      #@ two parameter
}"""
    after = with_weights(golden.untagged(text), c1=W, c2=B, c3=V, c4=-B)
    assert carried(linear(), after) == golden.tags(text)


def test_the_copy_of_a_value_in_single_precision_is_known_by_its_name() -> None:
    text = """
g (float[2, 8] x) => (float[2, 8] y) {
    InsertedPrecisionFreeCast_r = com.microsoft.FusedGemm <activation = "Relu"> (x, one__w, one__b)
        #@ act previous one act
    n = MatMul (InsertedPrecisionFreeCast_r, two__w)    #@ two previous
    y = Add (n, two__b)     #@ two previous
}""".replace("(x, one__w, one__b)\n       ", "(x, one__w, one__b)")
    assert carried(linear(), with_weights(golden.untagged(text), **LINEARS)) == golden.tags(text)


RELU = """
g (float[8, 8] x) => (float[8, 8] y) {
    m = MatMul (x, one__w)  #@ one
    r = Relu (m)            #@ act
    y = Tanh (r)            #@ end
}"""
SCALE = {"s": np.array(0.1, np.float32), "z": np.array(0, np.int8)}
DEQUANTISED = {
    "at once": """
g (float[8, 8] x) => (float[8, 8] y) {
    q = QuantizeLinear (x, s, z)    #@ act dataflow
    i = QLinearMatMul (q, s, z, c, s, z, s, z)  #@ act previous one act
    r = DequantizeLinear (i, s, z)  #@ act previous
    y = Tanh (r)                    #@ end previous
}""",
    "in another order": """
g (float[8, 8] x) => (float[8, 8] y) {
    q = QuantizeLinear (x, s, z)    #@ act dataflow
    i = QLinearMatMul (q, s, z, c, s, z, s, z)  #@ act previous one act
    t = Transpose <perm = [1, 0]> (i)   #@ act dataflow
    r = DequantizeLinear (t, s, z)  #@ act previous
    y = Tanh (r)                    #@ end previous
}""",
}


@pytest.mark.parametrize("text", DEQUANTISED.values(), ids=DEQUANTISED.keys())
def test_to_dequantise_is_not_to_clamp(text: str) -> None:
    """The Relu is gone, so its work is done where the numbers are made, although only what comes out has its name."""
    before = with_weights(golden.read(RELU), one__w=W)
    after = with_weights(golden.untagged(text), c=quantised(W), **SCALE)
    assert carried(before, after) == golden.tags(text)


def test_quantised_numbers_clamp_where_nothing_has_a_name() -> None:
    before = with_weights(golden.read(RELU.replace("Tanh", "Neg")), one__w=W)
    text = """
g (float[8, 8] x) => (float[8, 8] y) {
    q = QuantizeLinear (x, s, z)    #@ act dataflow
    i = com.microsoft.QMatMul (q, s, z, c, s, z, s, z)  #@ act parameter one act
    o = com.microsoft.QLinearNeg (i, s, z)  #@ end dataflow
    y = DequantizeLinear (o, s, z)  #@ end previous
}"""
    after = with_weights(golden.untagged(text), c=quantised(W), **SCALE)
    assert carried(before, after) == golden.tags(text)


def test_to_dequantise_behind_a_transpose_belongs_to_the_transpose() -> None:
    """The Transpose moves nothing, so its result also stands for what the Gather made, which is there already."""
    before = with_weights(
        golden.read("""
g (int64[1, 4] x) => (float[4, 1, 8] y) {
    e = Gather (one__w, x)              #@ one
    t = Transpose <perm = [1, 0, 2]> (e)    #@ two
    y = Neg (t)                         #@ two
}"""),
        one__w=W,
    )
    text = """
g (int64[1, 4] x) => (float[4, 1, 8] y) {
    e_quantized = Gather (c, x)         #@ one previous
    t_quantized = Transpose <perm = [1, 0, 2]> (e_quantized)    #@ two dataflow
    t = DequantizeLinear (t_quantized, s, z)    #@ two previous
    y = Neg (t)                         #@ two previous
}"""
    after = with_weights(golden.untagged(text), c=quantised(W), **SCALE)
    assert carried(before, after) == golden.tags(text)


MOVED = """
g (float[n, 2, 3, 3] x) => (float[n, 3, 3, 2] y) {
    t = Transpose <perm = [0, 2, 3, 1]> (x)     #@ block
    r = Neg(t)                                  #@ block.body
    u = Transpose <perm = [0, 3, 1, 2]> (r)     #@ block
    [add] s = Add(x, u)                         #@ block
    v = Transpose <perm = [0, 2, 3, 1]> (s)     #@ head
    y = LRN <size = 3> (v)                      #@ head
}"""


@pytest.mark.parametrize("behind", ["LRN <size = 3>", "LRN <alpha = 0.0001, size = 3, beta = 0.75>", "LRN <size = 1>"])
def test_a_module_whose_result_is_transposed_now_ends_inside_a_node_with_the_old_name(behind: str) -> None:
    """ONNX Runtime adds before it transposes, so that two transpositions cancel; what the Add made before is gone.

    It also writes down attributes with their default values. If the node behind is another one, nothing says what the
    Add makes now; it is not what it made before, which had other dimensions.
    """
    text = f"""
g (float[n, 2, 3, 3] x) => (float[n, 3, 3, 2] y) {{
    t = Transpose <perm = [0, 2, 3, 1]> (x)     #@ block previous
    r = Neg(t)                                  #@ block.body previous
    [add] z = Add(t, r)                         #@ head previous block head
    y = {behind} (z)                            #@ head previous
}}"""
    wanted = golden.tags(text)
    if "size = 1" in behind:
        wanted |= {"z": "block previous", "y": "head previous block head"}
    assert carried(golden.read(MOVED), golden.untagged(text)) == wanted
