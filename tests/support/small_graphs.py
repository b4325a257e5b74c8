"""Small graphs in ONNX text, with tags, to be cut, split, verified or shown."""

from __future__ import annotations

import json
from typing import Any

import onnx
from onnx import parser

from mxtools.passes.filter import Filter
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes import keys

HEAD = '<ir_version: 10, opset_import: ["" : 21]>'


SHARED = (
    HEAD
    + """ g (float[N, 4] x) => (float[N, 4] y) <float[4] w = {1, 2, 3, 4}, float[4] unused = {0, 0, 0, 0}> {
        k = Constant <value = float {2}> ()
        kk = Neg(k)
        a = Mul(x, kk)
        b = Add(a, w)
        s = Shape(b)
        r = Reshape(b, s)
        e = Expand(r, s)
        y = Relu(e)
    }"""
)


BODIES = (
    HEAD
    + """ g (bool c, float[2] x) => (float[2] y) <float[2] w = {1, 2}> {
        a = Neg(x)
        b = If (c) <
            then_branch = t () => (float[2] p) { p = Add(a, w) },
            else_branch = e () => (float[2] q) { q = Abs(x) }
        >
        y = Relu(b)
    }"""
)


LADDER = (
    HEAD
    + """ g (float[2] x, float[2] z) => (float[2] d, float[2] e) <float[2] w = {1, 2}> {
        k = Neg(w)
        a = Mul(x, k)
        b = Add(a, z)
        c = Abs(b)
        d = Exp(c)
        e = Sqrt(b)
    }"""
)


def tagged(text: str, scopes: dict[str, str], absent: dict[str, str] | None = None) -> onnx.ModelProto:
    """Return a model from text with the scopes of its nodes by output; the others are auxiliary and the root's."""
    model = parser.parse_model(text)
    for node in model.graph.node:
        scope = scopes.get(node.output[0])
        values = {keys.SCOPE: scope or ".", keys.TAG: "", keys.EVIDENCE: "name" if scope else "dataflow"}
        keys.replace_props(node, keys.NODE_KEYS, values)
    if absent:
        keys.replace_props(model, keys.MODEL_KEYS, {keys.ABSENT: json.dumps(absent)})
    return model


def cut(model: onnx.ModelProto, **options: Any) -> onnx.ModelProto:
    Filter(**options).apply(WorkingModel(model))
    onnx.checker.check_model(model, full_check=True)
    return model
