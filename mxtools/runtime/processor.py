"""What ONNX Runtime computes otherwise on this processor than on others."""

from __future__ import annotations

from functools import cache

import numpy as np

from mxtools.runtime.session_values import onnx_runtime

_PRODUCT = """<ir_version: 10, opset_import: ["" : 21]>
g (uint8[1, 64] a, int8[64, 16] b) => (int32[1, 16] y) { y = MatMulInteger(a, b) }"""


@cache
def int8_overflows() -> bool:
    """Return whether products of unsigned and signed bytes overflow, as they do on x86 processors without VNNI."""
    from onnx import parser

    product = parser.parse_model(_PRODUCT).SerializeToString()
    session = onnx_runtime().InferenceSession(product, providers=["CPUExecutionProvider"])
    feeds = {"a": np.full((1, 64), 255, np.uint8), "b": np.full((64, 16), 127, np.int8)}
    return bool((session.run(None, feeds)[0] != 255 * 127 * 64).any())
