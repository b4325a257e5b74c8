"""Small models to be tuned, and sets of inputs for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import mxtools

WIDTH, ROWS, SETS = 32, 64, 6
LAYERS = 3
OUTLIER = 100.0


def layers(outlier: int | None = None, seed: int = 0) -> mxtools.Model:
    """Return residual layers of a LayerNorm and two products, tagged, and a Gemm at the end.

    In the layer `outlier` one channel of the LayerNorm's scale is a hundred times as large, and the product that reads
    it has weights a hundred times as small there: the result is the same, and 8 bits are not enough for both.
    """
    rng = np.random.default_rng(seed)
    stored: dict[str, np.ndarray] = {}
    nodes = []
    value = "x"
    for layer in range(LAYERS):
        scope = f"layers.{layer}"
        scale, up = np.ones(WIDTH), rng.standard_normal((WIDTH, 2 * WIDTH)) / WIDTH**0.5
        if layer == outlier:
            scale[3], up[3] = OUTLIER, up[3] / OUTLIER
        stored |= {f"{scope}.norm.weight": scale, f"{scope}.norm.bias": np.zeros(WIDTH), f"{scope}.up.weight": up}
        stored[f"{scope}.down.weight"] = rng.standard_normal((2 * WIDTH, WIDTH)) / (2 * WIDTH) ** 0.5
        norm = [value, f"{scope}.norm.weight", f"{scope}.norm.bias"]
        nodes += [
            helper.make_node("LayerNormalization", norm, [f"n{layer}"], name=f"/{scope}/norm/LayerNormalization"),
            helper.make_node("MatMul", [f"n{layer}", f"{scope}.up.weight"], [f"u{layer}"], name=f"/{scope}/up/MatMul"),
            helper.make_node("Relu", [f"u{layer}"], [f"r{layer}"], name=f"/{scope}/act/Relu"),
            helper.make_node(
                "MatMul", [f"r{layer}", f"{scope}.down.weight"], [f"d{layer}"], name=f"/{scope}/down/MatMul"
            ),
            helper.make_node("Add", [value, f"d{layer}"], [f"a{layer}"], name=f"/{scope}/Add"),
        ]
        value = f"a{layer}"
    stored |= {"head.weight": rng.standard_normal((WIDTH, 10)) / WIDTH**0.5, "head.bias": np.zeros(10)}
    nodes.append(helper.make_node("Gemm", [value, "head.weight", "head.bias"], ["y"], name="/head/Gemm"))
    graph = helper.make_graph(
        nodes,
        "layers",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in stored.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(proto, full_check=True)
    model = mxtools.from_proto(proto)
    model.tag()
    return model


def sets(count: int = SETS, rows: int = ROWS) -> list[dict[str, np.ndarray]]:
    """Return sets of inputs."""
    rng = np.random.default_rng(7)
    return [{"x": rng.standard_normal((rows, WIDTH)).astype(np.float32)} for _ in range(count)]


def write_sets(folder: Path, labels: np.ndarray | None = None) -> Path:
    """Write sets of inputs to a new folder, and labels with them."""
    folder.mkdir()
    for number, each in enumerate(sets()):
        more = {} if labels is None else {"labels": labels[number * ROWS : (number + 1) * ROWS]}
        np.savez(folder / f"{number}.npz", **each, **more)
    return folder
