"""What Model Explorer imports of an extension: an adapter that opens ONNX files by their modules."""

from __future__ import annotations

from typing import Any

from model_explorer import Adapter, AdapterMetadata, ModelExplorerGraphs
from model_explorer import graph_builder as built

import mxtools
from mxtools.errors import MxError
from mxtools.views.build import structure
from mxtools.views.model_explorer import graph


class ModuleAdapter(Adapter):  # type: ignore[misc]  # the package has no types
    """Shows the modules of a tagged ONNX model as layers; a model without tags is tagged in memory, without a trace."""

    metadata = AdapterMetadata(
        id="mxtools",
        name="ONNX by module (mxtools)",
        description="Shows the PyTorch modules that an ONNX graph came from as layers.",
        fileExts=["onnx"],
    )

    def convert(self, model_path: str, settings: dict[str, Any]) -> ModelExplorerGraphs:  # noqa: ARG002 - its signature
        """Return the graph of a model; Model Explorer shows the message of an error."""
        try:
            model = mxtools.load(model_path)
            if not model.is_tagged:
                model.tag()
            (found,) = graph(structure(model, model.name), model.name)["graphs"]
        except MxError as error:
            raise RuntimeError(str(error)) from None
        nodes = [_node(node) for node in found["nodes"]]
        return {"graphs": [built.Graph(found["id"], nodes, groupNodeAttributes=found["groupNodeAttributes"])]}


def _node(node: dict[str, Any]) -> built.GraphNode:
    outputs = [built.MetadataItem(item["id"], _attributes(item["attrs"])) for item in node.get("outputsMetadata", ())]
    return built.GraphNode(
        id=node["id"],
        label=node["label"],
        namespace=node["namespace"],
        attrs=_attributes(node["attrs"]),
        incomingEdges=[built.IncomingEdge(**edge) for edge in node["incomingEdges"]],
        outputsMetadata=outputs,
    )


def _attributes(listed: list[dict[str, str]]) -> list[built.KeyValue]:
    return [built.KeyValue(item["key"], item["value"]) for item in listed]
