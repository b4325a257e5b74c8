"""Tags in doc strings: one line of JSON after the text that a node's doc string had before.

ONNX Runtime's optimiser, onnxsim and `onnx.version_converter` keep doc strings and drop metadata.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from onnx import NodeProto

from mxtools.files.json_text import decoded_or_none
from mxtools.scopes import keys

MARK = "pkg.mxtools "
"""The start of our line."""

_PREFIX = "pkg.mxtools."
_OPERATOR = "operator"


def write_doc_string(node: NodeProto) -> None:
    """Copy a node's scope, tag and evidence from its metadata into its doc string, with its operator.

    Tools turn nodes into others and keep the doc string; the operator tells later whether it is still the same node.
    """
    props = keys.props(node)
    entries = {_OPERATOR: node.op_type}
    entries |= {key.removeprefix(_PREFIX): props[key] for key in keys.TAG_KEYS if props.get(key)}
    foreign = without_tag(node.doc_string)
    line = [MARK + json.dumps(entries, ensure_ascii=False)] if keys.SCOPE in props else []
    text = "\n".join([*([foreign] if foreign else []), *line])
    if text != node.doc_string:
        node.doc_string = text


def read_doc_string(text: str) -> Mapping[str, str]:
    """Return the entries of our line, by metadata key; empty if there is no such line or it is damaged."""
    if MARK not in text:
        return {}
    lines = [line for line in text.split("\n") if line.startswith(MARK)]
    entries = decoded_or_none(lines[-1].removeprefix(MARK)) if lines else None
    if not isinstance(entries, dict) or not all(isinstance(value, str) for value in entries.values()):
        return {}
    return {_PREFIX + key: value for key, value in entries.items()} if entries.get("scope") else {}


def describes_operator_of(node: NodeProto) -> bool:
    """Return whether our line in a node's doc string was written for a node with the same operator."""
    return read_doc_string(node.doc_string).get(_PREFIX + _OPERATOR) == node.op_type


def without_tag(text: str) -> str:
    """Return a doc string without our line."""
    if MARK not in text:
        return text
    return "\n".join(line for line in text.split("\n") if not line.startswith(MARK))
