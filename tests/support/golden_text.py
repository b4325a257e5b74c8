"""Graphs as text that shows their tags: ONNX text, with `#@ SCOPE EVIDENCE [MERGED SCOPES]` behind each node.

`onnx.printer` drops the metadata of nodes, and the parser skips comments: a golden text still parses.
"""

from __future__ import annotations

import json
import re

import onnx
from onnx import parser

from mxtools.scopes import keys

HEAD = '<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>'

_NODE = re.compile(r"^\s*(\w+)[\w, ]* =.*?#@ *(.*?)\s*$", re.MULTILINE)


def read(text: str) -> onnx.ModelProto:
    """Give the model of a golden text, with its tags; `__` in names stands for `.`, which the parser does not take."""
    model = parser.parse_model(f"{HEAD}\n{text}")
    for tensor in model.graph.initializer:
        tensor.name = tensor.name.replace("__", ".")
    said = tags(text)
    for node in model.graph.node:
        node.input[:] = [name.replace("__", ".") for name in node.input]
        scope, _, rest = said.get(node.output[0], "").partition(" ")
        evidence, _, merged = rest.partition(" ")
        entries = {keys.SCOPE: scope, keys.TAG: _tag(scope), keys.EVIDENCE: evidence or "metadata"}
        entries |= {keys.MERGED: json.dumps(merged.split())} if merged else {}
        keys.replace_props(node, keys.NODE_KEYS, entries if scope else {})
    return model


def untagged(text: str) -> onnx.ModelProto:
    """Give the model of a golden text without its tags."""
    model = read(text)
    for node in model.graph.node:
        keys.replace_props(node, keys.NODE_KEYS, {})
    return model


def tags(text: str) -> dict[str, str]:
    """Give what a golden text says of each node, by its first output."""
    return {found[1]: found[2] for found in _NODE.finditer(text)}


def written(model: onnx.ModelProto) -> dict[str, str]:
    """Give what a golden text of a model would say of each node, by its first output."""
    found = {}
    for node in model.graph.node:
        props = keys.props(node)
        merged = json.loads(props.get(keys.MERGED, "[]"))
        found[node.output[0]] = " ".join([props.get(keys.SCOPE, ""), props.get(keys.EVIDENCE, ""), *merged]).strip()
    return found


def _tag(scope: str) -> str:
    return "/Model" + "".join(f"/{part.title()}" for part in scope.split(".") if part)
