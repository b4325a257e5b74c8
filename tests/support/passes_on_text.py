"""Passes that run on the text of a graph."""

from __future__ import annotations

import onnx
from onnx import parser

from mxtools.pipeline.pipeline import Pipeline
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes import keys
from mxtools.traces.sidecar import Sidecar
from mxtools.traces.values import Values


def run(
    passes: str, text: str, sidecar: Sidecar | None, names: dict[str, str] | None = None, **more: object
) -> dict[str, tuple[str, str]]:
    """Run passes on a model from text with node names by output; return scope and evidence by output."""
    return annotations(tagged(passes, text, sidecar, names, **more))


def tagged(
    passes: str,
    text: str,
    sidecar: Sidecar | None,
    names: dict[str, str] | None = None,
    metadata: dict[str, list[str]] | None = None,
    values: Values | None = None,
) -> onnx.ModelProto:
    """Return the model of a text after passes; `__` stands for `.` in names, `metadata` is torch.export's by output."""
    model = parser.parse_model(text)
    for tensor in model.graph.initializer:
        tensor.name = tensor.name.replace("__", ".")
    for node in (*model.graph.node, *(n for f in model.functions for n in f.node)):
        node.input[:] = [name.replace("__", ".") for name in node.input]
        node.name = (names or {}).get(node.output[0], "")
        if node.output[0] in (metadata or {}):
            node.metadata_props.add(key=keys.TORCH_NAME_SCOPES, value=repr((metadata or {})[node.output[0]]))
    Pipeline.parse(passes).apply(WorkingModel(model, sidecar=sidecar, values=values))
    return model


def annotations(model: onnx.ModelProto) -> dict[str, tuple[str, str]]:
    """Return scope and evidence by output."""
    found = {}
    for node in (*model.graph.node, *(n for f in model.functions for n in f.node)):
        props = keys.props(node)
        found[node.output[0]] = (props.get(keys.SCOPE, ""), props.get(keys.EVIDENCE, ""))
    return found
