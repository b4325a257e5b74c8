"""Models as views show them: a block of nested modules, and one whose names attack a page."""

from __future__ import annotations

import json

import onnx
from onnx import parser

from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes import keys
from mxtools.views.build import structure
from mxtools.views.metric_files import add_metrics
from mxtools.views.structure import Structure

HOSTILE = '</script><script>alert(1)</script><img src=x onerror="alert(2)">]]>&amp;"\\ `${x}`\u2028'


BLOCK = """
<ir_version: 10, opset_import: ["" : 21]>
g (float[2] x, bool c) => (float[2] y, float[2] h) <float[2] w = {1, 2}, float[2] v = {3, 4}> {
    k = Constant <value = float[2] {3, 4}> ()
    a = Mul(x, w)
    h = Relu(a)
    b = Add(h, k)
    d = If (c) <
        then_branch = then () => (float[2] r) { r = Mul(b, v) },
        else_branch = other () => (float[2] s) { s = Sub(b, w) }
    >
    y = Add(d, x)
}
"""


SCOPES = {
    "k": ("enc.0", "/M/E.0"),
    "a": ("enc.0.lin", "/M/E.0/L"),
    "h": ("enc.0", "/M/E.0"),
    "b": ("enc.1", "/M/E.1"),
    "r": ("enc.1.lin", "/M/E.1/L"),
    "s": ("enc.1", "/M/E.1"),
    "d": ("enc.1", "/M/E.1"),
    "y": (".", "/M"),
}


def tagged(text: str = BLOCK, scopes: dict[str, tuple[str, str]] | None = None) -> onnx.ModelProto:
    """Return a model whose nodes have scopes and tags by their outputs."""
    model = parser.parse_model(text)
    for node in WorkingModel(model).graph.nodes:
        scope, tag = (scopes or SCOPES)[node.output[0]]
        node.name = node.name or f"node {node.output[0]}"
        keys.replace_props(node, keys.NODE_KEYS, {keys.SCOPE: scope, keys.TAG: tag, keys.EVIDENCE: "name"})
    return model


def shown(model: onnx.ModelProto, title: str = "m.onnx") -> Structure:
    return structure(WorkingModel(model), title)


def hostile() -> Structure:
    model = tagged()
    model.graph.node[1].name = HOSTILE
    model.graph.node[1].op_type = HOSTILE
    model.graph.node[1].attribute.add(name=HOSTILE, type=onnx.AttributeProto.STRING, s=HOSTILE.encode())
    for node in (model.graph.node[1], model.graph.node[2]):
        props = keys.props(node)
        place = {keys.SCOPE: f"enc.{HOSTILE}".replace("/", "%2F"), keys.TAG: f"/M/{HOSTILE}".replace("</", "<%2F")}
        keys.replace_props(node, keys.NODE_KEYS, {**props, **place})
    model.graph.node[1].output[0] = model.graph.node[2].input[0] = HOSTILE
    model.graph.input[0].name = model.graph.node[1].input[0] = model.graph.node[5].input[1] = "<b>x"
    found = shown(model, HOSTILE)
    add_metrics(found, json.dumps({HOSTILE: {".": float("1")}}), "f.json")
    return found


def chain(*scopes: str) -> onnx.ModelProto:
    """Return a model of one node after another, each in a module of its scope; a class is its name with a capital."""
    lines, places, previous = [], {}, "x"
    for number, scope in enumerate(scopes):
        lines.append(f"v{number} = Relu({previous})")
        levels = [] if scope == "." else [part.capitalize() for part in scope.split(".")]
        places[f"v{number}"] = (scope, "/".join(["", "M", *levels]))
        previous = f"v{number}"
    body = "\n    ".join(lines)
    text = f'<ir_version: 10, opset_import: ["" : 21]>\ng (float[4] x) => (float[4] {previous}) {{\n    {body}\n}}'
    return tagged(text, places)
