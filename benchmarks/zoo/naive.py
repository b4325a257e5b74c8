"""Scopes from the names alone, as a script of a few lines finds them: `python naive.py IN.onnx OUT.onnx`."""

from __future__ import annotations

import ast
import sys

import onnx
from onnx import NodeProto


def scope_of(node: NodeProto) -> str:
    """Return the scope that the exporter's name of a node says: `/encoder/layer.0/Add` is in `encoder.layer.0`."""
    said = {entry.key: entry.value for entry in node.metadata_props}
    names = ast.literal_eval(said.get("pkg.torch.onnx.name_scopes", "[]"))
    return str(names[-2]) if len(names) > 1 else ".".join(node.name.strip("/").split("/")[:-1])


def main(source: str, target: str) -> None:
    """Write a model with the scopes of its nodes."""
    model = onnx.load(source)
    for node in model.graph.node:
        node.metadata_props.add(key="pkg.mxtools.scope", value=scope_of(node) or ".")
    onnx.save(model, target)


if __name__ == "__main__":
    main(*sys.argv[1:])
