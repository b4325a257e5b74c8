"""Scripts for the pass `surgeon`, and models to run them on."""

from __future__ import annotations

import onnx
from onnx import parser

from mxtools.scopes import keys

HEAD = '<ir_version: 10, opset_import: ["" : 21, "own" : 1]>'

SCRIPT = """
import numpy as np
import onnx_graphsurgeon as gs

def nothing(graph):
    pass

def copied(graph):
    return graph.copy()

def sorted_(graph):
    graph.cleanup().toposort()

def read(graph):
    for tensor in graph.tensors().values():
        if isinstance(tensor, gs.Constant):
            tensor.values
    for node in graph.nodes:
        for value in node.attrs.values():
            if isinstance(value, gs.Constant):
                value.values
"""


def scopes(proto: onnx.ModelProto) -> dict[str, str]:
    return {node.output[0]: keys.props(node).get(keys.SCOPE, "") for node in proto.graph.node}


def model(text: str) -> onnx.ModelProto:
    """Return a model from text whose nodes are named by what they make and tagged."""
    made = parser.parse_model(f"{HEAD} {text}")
    for node in (*made.graph.node, *(n for f in made.functions for n in f.node)):
        node.name = f"n_{node.output[0]}"
        node.metadata_props.add(key=keys.SCOPE, value=f"at.{node.output[0]}")
        node.doc_string = "said"
    return made


CHAIN = model(
    "g (float[2] x) => (float[2] d) <float[2] w = {1, 2}> { a = Neg(x) b = Identity(a) c = Mul(b, w) d = Exp(c) }"
)
