"""Graphs with operators of their own, in which some nodes are in the scope `m`; cutting that out."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import ModelProto, parser

from mxtools.graph.index import bodies
from mxtools.passes.filter import Filter
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes import keys
from tests.support.running import session

HEAD = '<ir_version: 10, opset_import: ["" : 21, "own" : 1]>'


Names = list[str]

NESTED = """ g (bool c, bool d, float[2] x) => (float[2] y) <float[2] w = {1, 2}, float[2] v = {3, 4}> {
            a = Neg(x)
            k = Constant <value = float {2}> ()
            b = If (c) <
                then_branch = t () => (float[2] p) {
                    l = Abs(x)
                    p = If (d) <
                        then_branch = tt () => (float[2] q) { qq = Add(a, w)  q = Mul(qq, l) },
                        else_branch = ee () => (float[2] r) { r = Mul(a, k) }
                    >
                },
                else_branch = e () => (float[2] s) { s = Identity(x) }
            >
            z = Add(b, v)
            y = Relu(z)
        }"""
"""A body in a body, which captures from two levels up."""


def tag(nodes: Sequence[onnx.NodeProto], scopes: dict[str, str]) -> None:
    """Give nodes, and those in their bodies, scopes by output; '.' to all others."""
    for node in nodes:
        scope = next((scopes[o] for o in node.output if o in scopes), ".")
        keys.replace_props(node, keys.NODE_KEYS, {keys.SCOPE: scope, keys.TAG: "", keys.EVIDENCE: "name"})
        for body in bodies(node):
            tag(body.node, scopes)


def tagged(source: str | ModelProto, *outputs: str, **scopes: str) -> ModelProto:
    """Return a model with some nodes in the scope 'm'."""
    model = parser.parse_model(source) if isinstance(source, str) else source
    for holder in (model.graph, *model.functions):
        tag(holder.node, dict.fromkeys(outputs, "m") | scopes)
    return model


def cut(model: ModelProto, scope: str = "m") -> ModelProto:
    """Cut a scope out; the part is valid and loads."""
    part = ModelProto.FromString(model.SerializeToString())
    Filter(scope=(scope,)).apply(WorkingModel(part))
    onnx.checker.check_model(part, full_check=True)
    session(part)
    return part


def shape(part: ModelProto) -> tuple[Names, Names, Names, Names]:
    """Return the names of a part's nodes (by first output), inputs, outputs and initializers."""
    graph = part.graph
    stored = [t.name for t in graph.initializer] + [t.values.name for t in graph.sparse_initializer]
    return [n.output[0] for n in graph.node], *([v.name for v in f] for f in (graph.input, graph.output)), stored
