"""Graphs as text that shows their tags: ONNX text, with `#@ SCOPE EVIDENCE [MERGED SCOPES]` behind each node.

`onnx.printer` drops the metadata and doc strings of nodes. What they hold besides the tags stands in lines of their
own behind the node, `#+ KEY: VALUE` and `#" DOC STRING`. The parser skips comments, so that a golden text still parses.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

import onnx
from onnx import parser, printer

from mxtools.graph.functions import model_nodes
from mxtools.scopes import keys

HEAD = '<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>'
COLUMN = 48
"""Where the comments of short lines begin."""

_NAME = r'(?:"[^"]*"|[\w.]+)'
_NODE = re.compile(rf'^\s*(?:\[[^\]]*\] *)?({_NAME})(?:, *(?:{_NAME})?)* = (?:[^#"]|"[^"]*")*(?:#@ *(.*?))?\s*$')
_EXTRA = re.compile(r'^\s*#(?:\+ (\S+?): (.*)|" (.*))$')
_DOC_STRING = ""
"""Stands for the key of a node's doc string."""


def read(text: str, known_tags: Mapping[str, str] | None = None) -> onnx.ModelProto:
    """Return the model of a golden text, with its tags: those said, else those known by scope, else derived from it.

    `__` in names stands for `.`, where they are not quoted.
    """
    model = parser.parse_model(text if text.lstrip().startswith("<") else f"{HEAD}\n{text}")
    for tensor in model.graph.initializer:
        tensor.name = tensor.name.replace("__", ".")
    told, more = tags(text), extras(text)
    for node in model_nodes(model):
        node.input[:] = [name.replace("__", ".") for name in node.input]
        name = node.output[0] if node.output else ""
        said = more.get(name, {})
        for key, value in said.items():
            _set(node, key, value)
        scope, _, rest = told.get(name, "").partition(" ")
        evidence, _, merged = rest.partition(" ")
        tag = said.get(keys.TAG) or (known_tags or {}).get(scope) or derived_tag(scope)
        entries = {keys.SCOPE: scope, keys.TAG: tag, keys.EVIDENCE: evidence or "metadata"}
        entries |= {keys.MERGED: json.dumps(merged.split())} if merged else {}
        entries |= {keys.EQUAL: said[keys.EQUAL]} if keys.EQUAL in said else {}
        keys.replace_props(node, keys.NODE_KEYS, entries if scope else {})
    return model


def untagged(text: str) -> onnx.ModelProto:
    """Return the model of a golden text without its tags."""
    model = read(text)
    for node in model_nodes(model):
        keys.replace_props(node, keys.NODE_KEYS, {})
    return model


def tags(text: str) -> dict[str, str]:
    """Return what a golden text says of each tagged node, by its first output."""
    return {found[1].strip('"'): found[2] for line in text.splitlines() if (found := _NODE.match(line)) and found[2]}


def extras(text: str) -> dict[str, dict[str, str]]:
    """Return what else a golden text says of nodes, by first output and key."""
    found: dict[str, dict[str, str]] = {}
    name = ""
    for line in text.splitlines():
        if node := _NODE.match(line):
            name = node[1].strip('"')
        elif extra := _EXTRA.match(line):
            found.setdefault(name, {})[extra[1] or _DOC_STRING] = extra[2] or json.loads(extra[3])
    return found


def written(model: onnx.ModelProto) -> dict[str, str]:
    """Return what a golden text of a model would say of each node, by its first output."""
    return {node.output[0]: told(node) for node in model.graph.node}


def told(node: onnx.NodeProto) -> str:
    """Return what a golden text says of a node: scope, evidence and merged scopes."""
    props = keys.props(node)
    merged = json.loads(props.get(keys.MERGED, "[]"))
    return " ".join([props.get(keys.SCOPE, ""), props.get(keys.EVIDENCE, ""), *merged]).strip()


def shown(model: onnx.ModelProto, known_tags: Mapping[str, str] | None = None) -> str:
    """Return the golden text of a model; of tags only those that are neither known by scope nor derived from it."""
    nodes = model_nodes(model)
    lines = []
    for line in printer.to_text(model).splitlines():
        lines.append(line.rstrip())
        if _NODE.match(line):
            node = next(nodes)
            if told(node):
                lines[-1] = f"{lines[-1] + '  ':{COLUMN}}#@ {told(node)}"
            indent = " " * (len(line) - len(line.lstrip()) + 2)
            lines += [indent + extra for extra in _extras_of(node, known_tags or {})]
    assert next(nodes, None) is None, "a node is in no line of its own"
    return "\n".join(lines) + "\n"


def derived_tag(scope: str) -> str:
    """Return the tag that a scope has in golden texts without a trace."""
    return "/Model" + "".join(f"/{part.title()}" for part in scope.split(".") if part)


def _extras_of(node: onnx.NodeProto, known_tags: Mapping[str, str]) -> Iterator[str]:
    props = keys.props(node)
    scope = props.get(keys.SCOPE, "")
    for key, value in props.items():
        if key not in keys.NODE_KEYS - {keys.EQUAL} or (
            key == keys.TAG and value != known_tags.get(scope, derived_tag(scope))
        ):
            yield f"#+ {key}: {value}"
    if node.doc_string:
        yield f'#" {json.dumps(node.doc_string)}'


def _set(node: onnx.NodeProto, key: str, value: str) -> None:
    if key == _DOC_STRING:
        node.doc_string = value
    else:
        keys.set_prop(node, key, value)
