"""Multiply-adds of nodes, against counts by hand and, on a real model, by PyTorch."""

from __future__ import annotations

import onnx
import pytest
from onnx import parser

from mxtools.costs.multiply_adds import multiply_adds
from mxtools.pipeline.working_model import WorkingModel

HEAD = '<ir_version: 10, opset_import: ["" : 21, "own" : 1, "com.microsoft" : 1]>\ng '
CASES = {
    "matrix product": ("(float[2, 3, 4] a, float[4, 5] b) => (float[2, 3, 5] y) { y = MatMul(a, b) }", [2 * 3 * 5 * 4]),
    "vectors": ("(float[4] a, float[4] b) => (float y) { y = MatMul(a, b) }", [4]),
    "Gemm": ("(float[2, 3] a, float[3, 5] b) => (float[2, 5] y) { y = Gemm(a, b) }", [2 * 5 * 3]),
    "Gemm, transposed": ("(float[3, 2] a, float[3, 5] b) => (float[2, 5] y) { y = Gemm<transA=1>(a, b) }", [2 * 5 * 3]),
    "convolution": (
        "(float[1, 4, 8, 8] x, float[6, 2, 3, 3] w) => (float[1, 6, 6, 6] y) { y = Conv<group=2>(x, w) }",
        [6 * 6 * 6 * 2 * 9],
    ),
    "transposed convolution": (
        "(float[1, 4, 5, 5] x, float[4, 3, 2, 2] w) => (float[1, 3, 10, 10] y) "
        "{ y = ConvTranspose<strides=[2, 2]>(x, w) }",
        [4 * 5 * 5 * 3 * 4],
    ),
    "inferred": ("(float[2, 3] a, float[3, 5] b) => (float[2, 5] y) { c = MatMul(a, b) y = Relu(c) }", [30]),
    "symbolic": ("(float[n, 3] a, float[3, 5] b) => (float[n, 5] y) { y = MatMul(a, b) }", []),
    "weights of four bits, also behind such a product": (
        "(float[2, 3, 40] a, uint8[5, 2, 16] b, float[10] s, uint8[6, 1, 16] c, float[6] t) => (float[2, 3, 6] z) "
        "{ y = com.microsoft.MatMulNBits<K=40, N=5, bits=4, block_size=32>(a, b, s) r = Relu(y) "
        "z = com.microsoft.MatMulNBits<K=5, N=6, bits=4, block_size=32>(r, c, t) }",
        [2 * 3 * 5 * 40, 2 * 3 * 6 * 5],
    ),
    "a function of such a name": (
        "(float[2, 3] a, float[3, 5] b) => (float[2, 5] y) { y = own.MatMulNBits<K=3, N=5>(a, b) }",
        [],
    ),
    "another domain": ("(float[2, 3] a, float[3, 5] b) => (float[2, 5] y) { y = own.MatMul(a, b) }", []),
}


def counted(model: onnx.ModelProto) -> list[int]:
    working = WorkingModel(model)
    return list(multiply_adds(working.graph, working.shapes).values())


@pytest.mark.parametrize("case", CASES)
def test_counts(case: str) -> None:
    text, expected = CASES[case]
    assert counted(parser.parse_model(HEAD + text)) == expected


@pytest.mark.model
def test_a_real_model_has_as_many_as_pytorch_counts() -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from fixtures import models

    model, inputs = models.convnet()
    with FlopCounterMode(display=False) as counter:
        model(**inputs)
    program = torch.onnx.export(model, (), kwargs=inputs, dynamo=True, verbose=False)
    assert program is not None
    assert 2 * sum(counted(program.model_proto)) == counter.get_total_flops()
