"""Tags in doc strings: one line of JSON behind what a node's doc string said before.

ONNX Runtime's optimiser, onnxsim and `onnx.version_converter` keep doc strings and drop metadata.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from onnx import NodeProto

from mxtools.files.json_text import decoded_or_none
from mxtools.scopes import keys

MARK = "pkg.mxtools "
"""Begins our line."""

_PREFIX = "pkg.mxtools."
_OPERATOR = "operator"


def write_doc_string(node: NodeProto) -> None:
    """Copy what a node's metadata says of its place, with its operator, since tools turn nodes into others."""
    props = keys.props(node)
    said = {_OPERATOR: node.op_type}
    said |= {key.removeprefix(_PREFIX): props[key] for key in keys.TAG_KEYS if props.get(key)}
    own = without_tag(node.doc_string)
    line = [MARK + json.dumps(said, ensure_ascii=False)] if keys.SCOPE in props else []
    text = "\n".join([*([own] if own else []), *line])
    if text != node.doc_string:
        node.doc_string = text


def read_doc_string(text: str) -> Mapping[str, str]:
    """Give what our line says, by the keys of the metadata; nothing where there is none, or a damaged one."""
    if MARK not in text:
        return {}
    lines = [line for line in text.split("\n") if line.startswith(MARK)]
    said = decoded_or_none(lines[-1].removeprefix(MARK)) if lines else None
    if not isinstance(said, dict) or not all(isinstance(value, str) for value in said.values()):
        return {}
    return {_PREFIX + key: value for key, value in said.items()} if said.get("scope") else {}


def is_said_of(node: NodeProto) -> bool:
    """Tell whether our line was written when a node had the operator that it has."""
    return read_doc_string(node.doc_string).get(_PREFIX + _OPERATOR) == node.op_type


def without_tag(text: str) -> str:
    """Give a doc string without our line."""
    if MARK not in text:
        return text
    return "\n".join(line for line in text.split("\n") if not line.startswith(MARK))
