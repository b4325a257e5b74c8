"""`mx filter` beside `onnx.utils.extract_model` on a generated Llama-like model with external data; whole processes.

external.py [FOLDER]: models are made in FOLDER (build/bench) and removed. Exit status 1 when a limit is exceeded. One
of 24 layers is cut out of 1.5 GB, and of 2.5 GB, which `extract_model` cannot load.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
from measuring import EXTRACT, FOLDER, MX, best, compare, run
from onnx import ModelProto, NodeProto, TensorProto, parser

LAYERS, WIDTH, INNER = 24, 1024, 2816
BLOCK = 1 << 24
TIMES, MEGABYTES = 0.25, 300

FRAME = """<ir_version: 8, opset_import: ["" : 17]>
g (int64[batch, sequence] ids) => (float[batch, sequence, vocabulary] logits)
<float eps = {1e-6}, float scale = {0.125}, int64[4] heads = {0, 0, 16, 64}, int64[3] whole = {0, 0, 1024}> {
    x = Gather (embedding, ids)
    logits = MatMul (y, head)
}"""
NODES = """
    sq1 = Mul (x, x) mean1 = ReduceMean <axes = [-1]> (sq1) sum1 = Add (mean1, eps)
    root1 = Sqrt (sum1) unit1 = Div (x, root1) norm1 = Mul (unit1, norm1_weight)
    q = MatMul (norm1, q_weight) qs = Reshape (q, heads) qt = Transpose <perm = [0, 2, 1, 3]> (qs)
    k = MatMul (norm1, k_weight) ks = Reshape (k, heads) kt = Transpose <perm = [0, 2, 3, 1]> (ks)
    v = MatMul (norm1, v_weight) vs = Reshape (v, heads) vt = Transpose <perm = [0, 2, 1, 3]> (vs)
    scores = MatMul (qt, kt) scaled = Mul (scores, scale) soft = Softmax <axis = -1> (scaled)
    mixed = MatMul (soft, vt) back = Transpose <perm = [0, 2, 1, 3]> (mixed) joined = Reshape (back, whole)
    o = MatMul (joined, o_weight) middle = Add (x, o)
    sq2 = Mul (middle, middle) mean2 = ReduceMean <axes = [-1]> (sq2) sum2 = Add (mean2, eps)
    root2 = Sqrt (sum2) unit2 = Div (middle, root2) norm2 = Mul (unit2, norm2_weight)
    gate = MatMul (norm2, gate_weight) sigmoid = Sigmoid (gate) act = Mul (gate, sigmoid)
    up = MatMul (norm2, up_weight) product = Mul (act, up) down = MatMul (product, down_weight)
    y = Add (middle, down)
"""
WEIGHTS = {
    "norm1_weight": (WIDTH,),
    **{f"{name}_weight": (WIDTH, WIDTH) for name in "qkvo"},
    "norm2_weight": (WIDTH,),
    "gate_weight": (WIDTH, INNER),
    "up_weight": (WIDTH, INNER),
    "down_weight": (INNER, WIDTH),
}


def main() -> int:
    """Measure and print; return the exit status."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    failed = False
    with_all = [FOLDER / f"{name}{end}" for name in ("llama", "tagged", "layer") for end in (".onnx", ".onnx.data")]
    raw, _, tagged, _, out, _ = with_all
    try:
        for vocabulary in (32_000, 155_000):
            write(raw, vocabulary)
            run([MX, "tag", raw, "-o", tagged])
            cut = [MX, "filter", tagged, "--scope", "model.layers.12", "-o", out]
            report = json.loads(run([*cut, "--json"]))
            size = f"{Path(f'{tagged}.data').stat().st_size / 1e9:.1f} GB"
            boundary = [",".join(report["inputs"]), ",".join(report["outputs"])]
            if vocabulary == 32_000:
                extract = [sys.executable, "-c", EXTRACT, tagged, out, *boundary]
                failed |= compare(f"mx filter : onnx.utils.extract_model, {size}", cut, extract, TIMES, MEGABYTES)
            else:
                ((seconds, memory),) = best(cut)
                print(f"mx filter, {size}: {seconds:.2f} s, memory {memory:.0f} MB (limit {MEGABYTES} MB)")
                failed |= memory > MEGABYTES
    finally:
        for file in with_all:
            file.unlink(missing_ok=True)
    return int(failed)


def write(path: Path, vocabulary: int, part: int = 1, layers: int = LAYERS) -> None:
    """Write the model, with node names like TorchScript's, and random weights in a file beside it.

    With a `part` above 1 it is so many times narrower.
    """
    model = parser.parse_model(FRAME)
    first, last = model.graph.node
    first.name, last.name = "/model/embed_tokens/Gather", "/lm_head/MatMul"
    shapes = {"embedding": (vocabulary, WIDTH)}
    shared = {tensor.name for tensor in model.graph.initializer}
    nodes = [first]
    for layer in range(layers):
        nodes += layer_nodes(layer, shared)
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in WEIGHTS.items()}
    last.input[0] = nodes[-1].output[0]
    copies = [NodeProto.FromString(node.SerializeToString()) for node in (*nodes, last)]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    shapes |= {"head": (WIDTH, vocabulary)}
    write_weights(path, model, {name: tuple(_narrower(d, part) for d in shape) for name, shape in shapes.items()})
    path.write_bytes(model.SerializeToString())


def _narrower(dimension: int, part: int) -> int:
    return dimension // part if dimension in (WIDTH, INNER) else dimension


def layer_nodes(layer: int, shared: set[str]) -> list[NodeProto]:
    """Return the nodes of one layer, which reads the output of the layer before."""
    nodes = list(parser.parse_graph(f"g (float x) => (float y) {{ {NODES} }}").node)
    own = f"model.layers.{layer}."
    before = f"model.layers.{layer - 1}.y" if layer else "x"
    for number, node in enumerate(nodes):
        node.name = f"/model/layers.{layer}/{node.op_type}_{number}"
        node.input[:] = [name if name in shared else before if name == "x" else own + name for name in node.input]
        node.output[:] = [own + name for name in node.output]
    return nodes


def write_weights(path: Path, model: ModelProto, shapes: dict[str, tuple[int, ...]]) -> None:
    """Write one block of random numbers as often as needed, and set the places of the weights in the model."""
    block = (np.random.default_rng(0).standard_normal(BLOCK // 4, np.float32) * 0.02).tobytes()
    with Path(f"{path}.data").open("wb") as data:
        for name, shape in shapes.items():
            tensor = model.graph.initializer.add(name=name, data_type=TensorProto.FLOAT, dims=shape)
            tensor.data_location = TensorProto.EXTERNAL
            length = 4 * math.prod(shape)
            for key, value in (("location", f"{path.name}.data"), ("offset", data.tell()), ("length", length)):
                tensor.external_data.add(key=key, value=str(value))
            for start in range(0, length, BLOCK):
                data.write(block[: min(BLOCK, length - start)])


if __name__ == "__main__":
    sys.exit(main())
