"""Random tagged models that run: bodies in bodies, functions, shapes, sparse and quantised tensors, every type.

All floats that nodes make have the shape (2, 3) and all shapes are that one, so that any value fits any operator. One
generator makes them for property tests, from what Hypothesis draws, and for the fuzzer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.helper import make_node as node
from onnx.helper import make_tensor_value_info as info

from mxtools.scopes import keys

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
SHAPE = (2, 3)
SCOPES = ("a", "a.b", "c", "d.e.f", "")
"""The scopes of nodes; what has none is the root's and auxiliary."""
LONGEST = 14
"""Steps of the longest model."""
ELEMENTS = (
    TensorProto.FLOAT16,
    TensorProto.BFLOAT16,
    TensorProto.DOUBLE,
    TensorProto.FLOAT8E4M3FN,
    TensorProto.FLOAT8E4M3FNUZ,
    TensorProto.FLOAT8E5M2,
    TensorProto.FLOAT8E5M2FNUZ,
    TensorProto.INT4,
    TensorProto.UINT4,
    TensorProto.INT8,
    TensorProto.UINT8,
    TensorProto.INT16,
    TensorProto.UINT16,
    TensorProto.INT32,
    TensorProto.INT64,
    TensorProto.UINT32,
    TensorProto.UINT64,
    TensorProto.BOOL,
)
"""Types of initializers that ONNX Runtime casts to floats."""


class Maker:
    """Makes nodes from values that are there; `name` is that of the value that the step in hand makes."""

    def __init__(self, chance: Random) -> None:
        """Begin with an input and some initializers."""
        self.chance, self.name = chance, ""
        self.floats, self.shapes = ["x", "w0", "w1"], ["s0"]
        weights = {"w0": np.arange(6.0).reshape(SHAPE), "w1": np.full(SHAPE, 0.1), "s0": np.array(SHAPE)}
        self.stored = [numpy_helper.from_array(v.astype("f" if k != "s0" else "i8"), k) for k, v in weights.items()]
        self.sparse: list[TensorProto] = []

    def float(self) -> str:
        """Return a value of floats."""
        return self.chance.choice(self.floats)

    def shape(self) -> str:
        """Return a value that is a shape."""
        return self.chance.choice(self.shapes)

    def inner(self, kind: str) -> str:
        """Return the name of a value inside of the step."""
        return f"{self.name}_{kind}"

    def result(self, prefix: str) -> list[helper.ValueInfoProto]:
        """Return what a body returns."""
        return [info(self.inner(prefix), FLOAT, SHAPE)]


def _plain(kind: str, count: int, maker: Maker) -> list[NodeProto]:
    return [node(kind, [maker.float() for _ in range(count)], [maker.name])]


def _constant(maker: Maker) -> list[NodeProto]:
    value = np.full(SHAPE, maker.chance.randrange(9) + 0.5, np.float32)
    return [node("Constant", [], [maker.name], value=numpy_helper.from_array(value))]


def _shape(maker: Maker) -> list[NodeProto]:
    return [node("Shape", [maker.float()], [maker.name])]


def _sizes(maker: Maker) -> list[NodeProto]:
    return [node("Constant", [], [maker.name], value=numpy_helper.from_array(np.array(SHAPE)))]


def _largest(maker: Maker) -> list[NodeProto]:
    return [node("Max", [maker.shape(), maker.shape()], [maker.name])]


def _reshape(maker: Maker) -> list[NodeProto]:
    return [node("Reshape", [maker.float(), maker.shape()], [maker.name])]


def _branch(maker: Maker, side: str, depth: int) -> GraphProto:
    """Return a branch that captures from outside, and at the lower levels holds an If of its own."""
    product, result = maker.inner(f"{side}_product"), maker.inner(f"{side}_result")
    nodes = [node("Mul", [maker.float(), maker.float()], [product])]
    if depth:
        sides = {f"{way}_branch": _branch(maker, f"{side}_{way}", depth - 1) for way in ("then", "else")}
        nodes += [node("If", ["c"], [maker.inner(f"{side}_chosen")], **sides)]
        nodes += [node("Sub", [product, maker.inner(f"{side}_chosen")], [result])]
    else:
        nodes += [node("Neg" if side.endswith("then") else "Abs", [product], [result])]
    return helper.make_graph(nodes, side, [], maker.result(f"{side}_result"))


def _if(depth: int, maker: Maker) -> list[NodeProto]:
    sides = {f"{way}_branch": _branch(maker, way, depth) for way in ("then", "else")}
    return [node("If", ["c"], [maker.name], **sides)]


def _loop(maker: Maker) -> list[NodeProto]:
    go, value = maker.inner("go"), maker.inner("value")
    ends = [info(maker.inner("i"), INT64, []), info(go, BOOL, []), info(value, FLOAT, SHAPE)]
    results = [info(maker.inner("go_on"), BOOL, []), *maker.result("next")]
    nodes = [
        node("Add", [value, maker.float()], [maker.inner("next")]),
        node("Identity", [go], [maker.inner("go_on")]),
    ]
    body = helper.make_graph(nodes, "step", ends, results)
    times = numpy_helper.from_array(np.array(maker.chance.randrange(3)), maker.inner("times"))
    maker.stored.append(times)
    return [node("Loop", [times.name, "", maker.float()], [maker.name], body=body)]


def _scan(maker: Maker) -> list[NodeProto]:
    """Return a Scan over the rows of a value, each with the sum of those before it."""
    width, floats = [SHAPE[1]], [maker.inner(kind) for kind in ("state", "row", "next", "made")]
    state, row, after, made = floats
    nodes = [node("Add", [state, row], [after]), node("Neg", [after], [made])]
    ends = [info(state, FLOAT, width), info(row, FLOAT, width)]
    body = helper.make_graph(nodes, "step", ends, [info(after, FLOAT, width), info(made, FLOAT, width)])
    first = numpy_helper.from_array(np.ones(width, np.float32), maker.inner("first"))
    maker.stored.append(first)
    given = [first.name, maker.float()]
    return [node("Scan", given, [maker.inner("last"), maker.name], body=body, num_scan_inputs=1)]


def _own(kind: str, count: int, maker: Maker) -> list[NodeProto]:
    return [node(kind, [maker.float() for _ in range(count)], [maker.name], domain="own")]


def _sparse(maker: Maker) -> list[NodeProto]:
    content = helper.make_tensor(maker.inner("sparse"), FLOAT, [2], [1.5, -2.0])
    places = helper.make_tensor(maker.inner("places"), INT64, [2], [1, 4])
    maker.sparse.append(helper.make_sparse_tensor(content, places, SHAPE))
    return [node("Add", [maker.float(), content.name], [maker.name])]


def _quantised(maker: Maker) -> list[NodeProto]:
    scale, zero, small = (maker.inner(kind) for kind in ("scale", "zero", "small"))
    element = maker.chance.choice((TensorProto.UINT8, TensorProto.INT8, TensorProto.INT16, TensorProto.UINT16))
    maker.stored += [helper.make_tensor(scale, FLOAT, [], [0.25]), helper.make_tensor(zero, element, [], [3])]
    return [
        node("QuantizeLinear", [maker.float(), scale, zero], [small]),
        node("DequantizeLinear", [small, scale, zero], [maker.name]),
    ]


def _cast(maker: Maker) -> list[NodeProto]:
    """Return the cast of an initializer of some type."""
    element, stored = maker.chance.choice(ELEMENTS), maker.inner("stored")
    maker.stored.append(helper.make_tensor(stored, element, SHAPE, [0, 1, 1, 0, 1, 1]))
    return [node("Cast", [stored], [maker.name], to=int(FLOAT))]


STEPS: dict[str, Callable[[Maker], list[NodeProto]]] = {
    "Neg": partial(_plain, "Neg", 1),
    "Exp": partial(_plain, "Exp", 1),
    "Add": partial(_plain, "Add", 2),
    "Mul": partial(_plain, "Mul", 2),
    "Constant": _constant,
    "Shape": _shape,
    "Sizes": _sizes,
    "Max": _largest,
    "Reshape": _reshape,
    "If": partial(_if, 0),
    "If in If": partial(_if, 1),
    "Loop": _loop,
    "Scan": _scan,
    "function": partial(_own, "Less", 2),
    "function in function": partial(_own, "Twice", 1),
    "sparse": _sparse,
    "quantised": _quantised,
    "cast": _cast,
}
SHAPES = ("Shape", "Sizes", "Max")
"""The steps that make a shape."""


def random_model(chance: Random, scopes: Sequence[str] = SCOPES) -> ModelProto:
    """Return a model of random steps; its outputs are some of its values."""
    maker, nodes = Maker(chance), []
    kinds = list(STEPS)
    for number in range(chance.randint(1, LONGEST)):
        kind = chance.choice(kinds)
        maker.name = f"t{number}"
        scope = chance.choice(scopes)
        for place, made in enumerate(STEPS[kind](maker)):
            made.name = f"/{scope.replace('.', '/')}/{made.op_type}_{number}_{place}"
            values = {keys.SCOPE: scope or ".", keys.TAG: f"/G/{scope}", keys.EVIDENCE: "name" if scope else "dataflow"}
            keys.replace_props(made, keys.NODE_KEYS, values)
            nodes.append(made)
        (maker.shapes if kind in SHAPES else maker.floats).append(maker.name)
    made = [*maker.floats[3:], *maker.shapes[1:]]
    rows = chance.choice((SHAPE[0], "N"))
    outputs = [
        info(name, *((INT64, [2]) if name in maker.shapes else (FLOAT, [rows, SHAPE[1]])))
        for name in dict.fromkeys(chance.choice(made) for _ in range(chance.randint(1, 3)))
    ]
    inputs = [info("x", FLOAT, [rows, SHAPE[1]]), info("c", BOOL, [])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, maker.stored, sparse_initializer=maker.sparse)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("own", 1)]
    inner = [node("Sub", ["p", "q"], ["m"], name="/less/Sub"), node("Relu", ["m"], ["r"], name="/act/Relu")]
    outer = [
        node("Less", ["p", "p"], ["m"], domain="own", name="/one/Less"),
        node("Add", ["m", "p"], ["r"], name="/Add"),
    ]
    functions = [
        helper.make_function("own", "Less", ["p", "q"], ["r"], inner, opsets),
        helper.make_function("own", "Twice", ["p"], ["r"], outer, opsets),
    ]
    return helper.make_model(graph, functions=functions, opset_imports=opsets, ir_version=10)


def models(scopes: Sequence[str] = SCOPES) -> st.SearchStrategy[ModelProto]:
    """Return the strategy that draws random models."""
    return st.randoms(use_true_random=False).map(partial(random_model, scopes=scopes))


def feeds(condition: bool) -> dict[str, Any]:
    """Return inputs of every random model; the condition decides which branches run."""
    return {"x": np.linspace(-1, 1, 6, dtype=np.float32).reshape(SHAPE), "c": np.array(condition)}


def check(model: ModelProto) -> None:
    """Check a model; the checker infers no types around sparse initializers, which ONNX Runtime reads as dense ones."""
    onnx.checker.check_model(model, full_check=not model.graph.sparse_initializer)
