"""The pass `untag`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onnx import ModelProto, NodeProto

from mxtools.carriers.doc_strings import without_tag
from mxtools.carriers.packed import carriers_of
from mxtools.pipeline.context import Context, Pass, option
from mxtools.scopes import keys


@dataclass(frozen=True)
class Untag(Pass):
    """Remove the tags that mxtools wrote on nodes and model."""

    name: ClassVar[str] = "untag"
    annotates: ClassVar[bool] = True

    carriers: bool = option("also their copies in doc strings and under other keys, and the trace; names stay", False)

    def apply(self, model: ModelProto, context: Context) -> None:
        """Remove our keys; foreign ones stay."""
        nodes = context.graph(model).nodes
        for node in [node for node in nodes if node.metadata_props]:
            keys.replace_props(node, keys.NODE_KEYS, {})
        keys.replace_props(model, keys.MODEL_KEYS, {})
        if self.carriers:
            _remove_carriers(model, nodes)
        context.forget_annotations()


def _remove_carriers(model: ModelProto, nodes: list[NodeProto]) -> None:
    known = {"namespace": keys.NAMESPACE, "layer-annotation": keys.LAYER_ANNOTATION}
    ours = frozenset(known[name] for name in carriers_of(model) if name in known)
    for node in nodes:
        keys.replace_props(node, ours, {})
        if (text := without_tag(node.doc_string)) != node.doc_string:
            node.doc_string = text
    keys.replace_props(model, keys.CARRIER_KEYS, {})
